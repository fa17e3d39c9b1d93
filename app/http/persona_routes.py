"""The personas of the running service, for operators, and prompts for one call, whose voice URL names them by id."""

import logging
from http import HTTPStatus
from typing import Protocol

from fastapi import APIRouter, Depends, HTTPException, Request

from app.calls.prompts import PromptRejected, PromptUnavailable, clean_prompt
from app.http import api_schemas as api
from app.http.json_body import read_strings
from app.http.operator_auth import OperatorAuth

log = logging.getLogger(__name__)

WANTED = 'send a JSON object {"text": "…", "persona": "…"}'
MAX_BYTES = 65_536
"""Room for the longest text with every character escaped."""


class PersonaSource(Protocol):
    async def refresh(self) -> None:
        """Read what has changed since the last call; to be awaited before each call is answered."""

    def as_json(self) -> list[dict[str, object]]: ...

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        """Compute a prompt for one call of a persona; return its id. Raises PromptRejected, PromptUnavailable.

        Without text or voice they are the persona's.
        """

    def drop_once(self, prompt: str) -> None:
        """Drop a prompt for one call that does not come."""


def build_persona_router(auth: OperatorAuth, personas: PersonaSource) -> APIRouter:
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])

    @router.get("/personas", response_model=list[api.PersonaAnswer])
    async def list_personas() -> list[dict[str, object]]:
        await personas.refresh()
        return personas.as_json()

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
