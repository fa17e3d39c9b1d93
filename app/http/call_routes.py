"""`/api/calls`: the calls of this run of the service, for operators, and what they can have done in one that is on."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from app.calls.active_call import QueuedSentence
from app.calls.manager import CallManager
from app.calls.record_json import Call, CallSummary, as_json
from app.calls.sentences import SayRefusal, SayRefused, clean_sentence
from app.calls.transfer import Transfer, TransferBy, TransferRefusal, TransferRefused
from app.http import api_schemas as api
from app.http.json_body import read_strings
from app.http.operator_auth import OperatorAuth
from app.logging import CallLogger, mask_number
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

WANTED = 'send a JSON object {"text": "…"}'
WANTED_TO = 'send a JSON object {"to": "+15551234567"}, or {} for TRANSFER_TO'
MAX_BYTES = 16_384
"""Room for the longest text with every character escaped."""
SAID_WITHIN_S = 30.0
"""How long `?wait=true` waits."""
STATUSES = {
    SayRefusal.OVER: HTTPStatus.CONFLICT,
    SayRefusal.IN_GAP: HTTPStatus.CONFLICT,
    SayRefusal.NOT_LIVE: HTTPStatus.CONFLICT,
    SayRefusal.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    TransferRefusal.NOT_ON: HTTPStatus.NOT_FOUND,
    TransferRefusal.NOT_LIVE: HTTPStatus.CONFLICT,
    TransferRefusal.NO_TARGET: HTTPStatus.UNPROCESSABLE_ENTITY,
    TransferRefusal.FORBIDDEN: HTTPStatus.FORBIDDEN,
    TransferRefusal.NO_ACCOUNT: HTTPStatus.CONFLICT,
    TransferRefusal.NOT_PLACED: HTTPStatus.BAD_GATEWAY,
}
TransferCall = Callable[[CallSid, str, TransferBy], Awaitable[Transfer]]


def build_call_router(auth: OperatorAuth, manager: CallManager, transfer: TransferCall) -> APIRouter:
    router = APIRouter(prefix="/api/calls", dependencies=[Depends(auth.require)])

    @router.get("", response_model=list[CallSummary])
    async def calls() -> Response:
        return await json_response(lambda: [as_json(record, CallSummary) for record in manager.records()])

    @router.get("/{call_sid}", response_model=Call)
    async def call(call_sid: CallSid) -> Response:
        record = manager.record(call_sid)
        if record is None:
            raise HTTPException(404, "no such call")
        copy = record.copy()
        return await json_response(lambda: as_json(copy))

    @router.post("/{call_sid}/hangup", status_code=202, response_model=api.CallSidAnswer)
    async def hang_up(call_sid: CallSid) -> dict[str, object]:
        if not manager.hang_up(call_sid):
            raise HTTPException(404, "no such call is on")
        CallLogger(log, call_sid).info("an operator hangs up")
        return {"call_sid": call_sid}

    router.include_router(_build_say_router(manager))
    router.include_router(_build_transfer_router(transfer))
    return router


async def json_response(make: Callable[[], object]) -> Response:
    """Make an answer off the event loop: that of an hour-long call takes a while."""
    return Response(await asyncio.to_thread(lambda: json.dumps(make())), media_type="application/json")


def _build_say_router(manager: CallManager) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/{call_sid}/say",
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


def _build_transfer_router(transfer: TransferCall) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/{call_sid}/transfer",
        status_code=HTTPStatus.ACCEPTED,
        response_model=api.TransferAnswer,
        openapi_extra=api.body_of(api.TransferRequest),
    )
    async def transfer_call(request: Request, call_sid: CallSid) -> dict[str, object]:
        (to,) = await read_strings(request, WANTED_TO, MAX_BYTES, to="")
        try:
            begun = await transfer(call_sid, to, TransferBy.OPERATOR)
        except TransferRefused as refused:
            raise HTTPException(STATUSES[refused.reason], str(refused)) from None
        return {"call_sid": call_sid, "to": mask_number(begun.to)}

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
