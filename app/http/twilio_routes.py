"""Twilio's webhooks and its media socket."""

import logging

from fastapi import APIRouter, HTTPException, Request, Response, WebSocket

from app.calls.manager import CallManager
from app.calls.router import CallRouter
from app.http.media import run_media_socket
from app.http.paths import AFTER_STREAM_PATH, AFTER_WAIT_PATH, WAIT_PATH
from app.http.rate_limit import MEDIA_PATH
from app.http.webhooks import Webhooks
from app.logging import CallLog
from app.twilio import twiml
from app.twilio.number import STATUS_PATH, VOICE_PATH

log = logging.getLogger(__name__)

WEBHOOK_TOKEN_HEADER = "I-Twilio-Idempotency-Token"  # noqa: S105 - no secret
"""The same in all repeats of one webhook."""


def build_twilio_router(webhooks: Webhooks, call_router: CallRouter, manager: CallManager) -> APIRouter:
    router = APIRouter()

    @router.post(VOICE_PATH)
    async def voice(request: Request) -> Response:
        form = await webhooks.read(request)
        try:
            return _twiml(call_router.answer(form, request.headers.get(WEBHOOK_TOKEN_HEADER, "")))
        except ValueError as error:
            CallLog(log, form.call_sid).warning("the voice URL's query: %s", error)
            raise HTTPException(400, str(error)) from error

    @router.post(AFTER_STREAM_PATH)
    async def after_stream(request: Request) -> Response:
        CallLog(log, (await webhooks.read(request)).call_sid).info("stream is over, hanging up")
        return _twiml(twiml.hangup())

    @router.post(STATUS_PATH)
    async def status(request: Request) -> Response:
        call_router.handle_status(await webhooks.read(request))
        return Response(status_code=204)

    @router.post(WAIT_PATH)
    async def wait(request: Request) -> Response:
        return _twiml(call_router.wait(await webhooks.read(request)))

    @router.post(AFTER_WAIT_PATH)
    async def after_wait(request: Request) -> Response:
        return _twiml(call_router.after_wait(await webhooks.read(request)))

    @router.websocket(MEDIA_PATH + "{token}")
    async def media(websocket: WebSocket, token: str) -> None:
        webhooks.check_socket(websocket)
        call = manager.claim(token)
        if call is None:
            log.warning("socket refused: its token is unknown, used or expired")
            raise webhooks.refuse_token()
        await run_media_socket(websocket, call)

    return router


def _twiml(text: str) -> Response:
    return Response(text, media_type="application/xml")
