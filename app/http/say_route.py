"""`POST /api/calls/{call_sid}/say`: Moshi says a sentence in a call that is on."""

import asyncio
import logging
from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response

from app.calls.active_call import QueuedSentence
from app.calls.manager import CallManager
from app.calls.sentences import SayRefusal, SayRefused, clean_sentence
from app.http import api_schemas as api
from app.http.json_body import read_strings
from app.logging import CallLogger
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

WANTED = 'send a JSON object {"text": "…"}'
MAX_BYTES = 16_384
"""Room for the longest text with every character escaped."""
SAID_WITHIN_S = 30.0
"""How long `?wait=true` waits."""
STATUSES = {
    SayRefusal.OVER: HTTPStatus.CONFLICT,
    SayRefusal.IN_GAP: HTTPStatus.CONFLICT,
    SayRefusal.NOT_LIVE: HTTPStatus.CONFLICT,
    SayRefusal.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
}


def build_say_router(manager: CallManager) -> APIRouter:
    """Return the route, for a router that lets in operators alone."""
    router = APIRouter()

    @router.post(
        "/calls/{call_sid}/say",
        status_code=HTTPStatus.ACCEPTED,
        response_model=api.SayAnswer,
        response_model_exclude_none=True,
        responses={HTTPStatus.OK: {"model": api.SayAnswer}},
        openapi_extra=api.body_of(api.SayRequest),
    )
    async def say(request: Request, response: Response, call_sid: CallSid, wait: bool = False) -> dict[str, object]:
        text = await _read_text(request)
        queued = _queue(manager, call_sid, text)
        CallLogger(log, call_sid).info("an operator has Moshi say sentence %d", queued.number)
        if wait:
            await asyncio.wait({queued.said}, timeout=SAID_WITHIN_S)
        if not queued.said.done():
            return {"id": queued.number}
        response.status_code = HTTPStatus.OK
        return {"id": queued.number, "whole": _outcome(queued)}

    return router


def _queue(manager: CallManager, call_sid: CallSid, text: str) -> QueuedSentence:
    call = manager.call(call_sid)
    if call is None and manager.record(call_sid) is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "no such call")
    try:
        if call is None:
            raise SayRefused(SayRefusal.OVER)
        return call.say(text)
    except SayRefused as refused:
        raise HTTPException(STATUSES[refused.reason], refused.reason) from None


def _outcome(queued: QueuedSentence) -> bool:
    """Return whether a sentence was said whole. Raises HTTPException 409 if its stream ended before."""
    whole = queued.said.result()
    if whole is None:
        raise HTTPException(HTTPStatus.CONFLICT, "the call ended before the sentence was said")
    return whole


async def _read_text(request: Request) -> str:
    """Return what Moshi is to say. Raises HTTPException, in one line."""
    (text,) = await read_strings(request, WANTED, MAX_BYTES, text=None)
    try:
        return clean_sentence(text)
    except ValueError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
