"""`POST /api/prompts`: a prompt for one call, whose voice URL names it by the id that is answered: `?prompt=<id>`."""

import logging
from http import HTTPStatus

from fastapi import APIRouter, Depends, HTTPException, Request

from app.calls.prompts import PromptRejected, PromptUnavailable, clean_prompt
from app.http import api_schemas as api
from app.http.json_body import read_strings
from app.http.operator_auth import OperatorAuth
from app.http.persona_routes import PersonaSource

log = logging.getLogger(__name__)

WANTED = 'send a JSON object {"text": "…", "persona": "…"}'
MAX_BYTES = 65_536
"""Room for the longest text with every character escaped."""


def build_prompt_router(auth: OperatorAuth, personas: PersonaSource) -> APIRouter:
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])

    @router.post(
        "/prompts",
        status_code=HTTPStatus.CREATED,
        response_model=api.PromptAnswer,
        openapi_extra=api.body_of(api.PromptRequest),
    )
    async def prepare(request: Request) -> dict[str, str]:
        text, persona = await read_strings(request, WANTED, MAX_BYTES, text=None, persona="")
        try:
            key = await personas.prepare_once(clean_prompt(text), persona)
        except PromptRejected as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        except PromptUnavailable as error:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        log.info("an operator's prompt for one call is ready")
        return {"id": key}

    return router
