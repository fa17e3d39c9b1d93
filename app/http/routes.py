"""Twilio's routes, and health."""

import asyncio
import json
import logging

from fastapi import APIRouter, HTTPException, Request, Response, WebSocket

from app.calls.manager import CallManager
from app.calls.record import CallRecord
from app.calls.router import CallRouter
from app.http.event_routes import build_event_router
from app.http.media import run_media_socket
from app.http.operator_auth import OperatorAuth
from app.http.paths import AFTER_STREAM_PATH
from app.http.rate_limit import MEDIA_PATH
from app.http.webhooks import Webhooks, deny
from app.logging import CallLog
from app.telemetry.event_loop_lag import EventLoopLag
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.number import STATUS_PATH, VOICE_PATH

log = logging.getLogger(__name__)

WEBHOOK_TOKEN_HEADER = "I-Twilio-Idempotency-Token"  # noqa: S105 - tells repeats of one webhook, no secret
"""The same in all repeats of one webhook."""


def build_router(
    webhooks: Webhooks, call_router: CallRouter, manager: CallManager, operators: OperatorAuth, lag: EventLoopLag
) -> APIRouter:
    """Return the routes over one manager."""
    router = APIRouter()

    @router.post(VOICE_PATH)
    async def voice(request: Request) -> Response:
        form = await webhooks.read(request)
        try:
            return twiml_response(call_router.answer(form, request.headers.get(WEBHOOK_TOKEN_HEADER, "")))
        except ValueError as error:
            CallLog(log, form.call_sid).warning("the voice URL's query: %s", error)
            raise HTTPException(400, str(error)) from error

    @router.post(AFTER_STREAM_PATH)
    async def after_stream(request: Request) -> Response:
        CallLog(log, (await webhooks.read(request)).call_sid).info("stream is over, hanging up")
        return twiml_response(twiml.hangup())

    @router.post(STATUS_PATH)
    async def status(request: Request) -> Response:
        call_router.take_status(await webhooks.read(request))
        return Response(status_code=204)

    @router.websocket(MEDIA_PATH + "{token}")
    async def media(websocket: WebSocket, token: str) -> None:
        try:
            webhooks.check_socket(websocket)
        except HTTPException as refusal:
            await deny(websocket, refusal)
            return
        call = manager.claim(token)
        if call is None:
            log.warning("socket refused: its token is unknown, used or expired")
            await deny(websocket, webhooks.refuse_token())
            return
        await run_media_socket(websocket, call, manager)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        if not manager.ready:
            response.status_code = 503
        return {
            "ready": manager.ready,
            "free_slots": manager.free_slots,
            "calls": manager.calls_on,
            "draining": manager.draining,
            "pipeline": manager.pipeline,
        }

    @router.get("/api/loop")
    async def loop(request: Request) -> dict[str, float]:
        operators.require(request)
        return lag.as_json()

    @router.get("/api/calls")
    async def calls(request: Request) -> Response:
        operators.require(request)
        return await _json([record.summary() for record in manager.records()])

    @router.get("/api/calls/{call_sid}")
    async def call(request: Request, call_sid: str) -> Response:
        operators.require(request)
        record = manager.record(CallSid(call_sid))
        if record is None:
            raise HTTPException(404, "no such call")
        return await _json(record.copy())

    router.include_router(build_event_router(manager, operators.require))
    return router


async def _json(told: CallRecord | list[dict[str, object]]) -> Response:
    """Put together an answer off the event loop: of a long call it takes a while."""
    text = await asyncio.to_thread(lambda: json.dumps(told.as_json() if isinstance(told, CallRecord) else told))
    return Response(text, media_type="application/json")


def twiml_response(text: str) -> Response:
    """Return TwiML as an answer."""
    return Response(text, media_type="application/xml")
