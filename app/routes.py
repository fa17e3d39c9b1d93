"""Twilio's routes, and health."""

import logging
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response, WebSocket

from app.config import Settings, is_loopback
from app.lag import LagGauge
from app.log import CallLog, mask_number
from app.media import run_media_socket
from app.switchboard import Switchboard
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.signature import SignatureCheck, socket_url

log = logging.getLogger(__name__)

SIGNATURE_HEADER = "x-twilio-signature"
MAX_FORM_BYTES = 65_536
MAX_FORM_FIELDS = 200
MAX_SID_LENGTH = 64
REJECTED = 1008


def build_router(settings: Settings, switchboard: Switchboard, lag: LagGauge) -> APIRouter:
    """Return the routes over one switchboard."""
    router = APIRouter()
    check = SignatureCheck(settings.base_url, settings.auth_tokens) if settings.checks_signatures else None

    @router.post("/twilio/voice")
    async def voice(request: Request) -> Response:
        form = await _signed_form(request, check)
        call_sid = _call_sid(form, settings)
        caller, called = form.get("From", ""), form.get("To", "")
        reservation = switchboard.reserve(call_sid, caller, called, form.get("Direction", ""))
        if reservation is None:
            CallLog(log, call_sid).warning("no slot for %s", mask_number(caller))
            return _twiml(twiml.reject_busy())
        CallLog(log, call_sid).info("call from %s", mask_number(caller))
        stream_url = socket_url(f"{settings.base_url}/twilio/media/{reservation.token}")
        action_url = f"{settings.base_url}/twilio/after-stream"
        return _twiml(twiml.connect(stream_url, action_url, {"from": caller[:100], "to": called[:100]}))

    @router.post("/twilio/after-stream")
    async def after_stream(request: Request) -> Response:
        form = await _signed_form(request, check)
        CallLog(log, _call_sid(form, settings)).info("stream is over, hanging up")
        return _twiml(twiml.hangup())

    @router.post("/twilio/status")
    async def status(request: Request) -> Response:
        form = await _signed_form(request, check)
        facts = {name: form[name] for name in ("CallStatus", "StreamEvent", "StreamError", "ErrorCode") if name in form}
        CallLog(log, _call_sid(form, settings)).info("status %s", facts)
        return Response(status_code=204)

    @router.websocket("/twilio/media/{token}")
    async def media(websocket: WebSocket, token: str) -> None:
        path = websocket.scope["raw_path"].decode("ascii", "replace")
        if check and not check.socket_valid(path, websocket.headers.get(SIGNATURE_HEADER)):
            log.warning("socket refused: not signed by Twilio for %s", settings.base_url)
            await websocket.close(REJECTED)
            return
        call = switchboard.claim(token)
        if call is None:
            log.warning("socket refused: its token is unknown, used or expired")
            await websocket.close(REJECTED)
            return
        await run_media_socket(websocket, call, switchboard)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        if not switchboard.ready:
            response.status_code = 503
        return {"ready": switchboard.ready, "free_slots": switchboard.free_slots}

    @router.get("/api/loop")
    async def loop(request: Request) -> dict[str, float]:
        _require_local(request)
        return lag.as_json()

    @router.get("/api/calls")
    async def calls(request: Request) -> list[dict[str, object]]:
        _require_local(request)
        return [record.summary() for record in switchboard.records()]

    @router.get("/api/calls/{call_sid}")
    async def call(request: Request, call_sid: str) -> dict[str, object]:
        _require_local(request)
        for record in reversed(switchboard.records()):
            if record.call_sid == call_sid:
                return record.as_json()
        raise HTTPException(404, "no such call")

    return router


def _twiml(text: str) -> Response:
    return Response(text, media_type="application/xml")


async def _signed_form(request: Request, check: SignatureCheck | None) -> dict[str, str]:
    """Return the form of a webhook of Twilio's; HTTP 413, 400 or 403 if it is none."""
    signature = request.headers.get(SIGNATURE_HEADER)
    pairs = _parse_form(await _body(request)) if signature or not check else []
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    if check and not check.webhook_valid(f"{path}?{query}" if query else path, pairs, signature):
        log.warning("webhook %s refused: not signed by Twilio for the PUBLIC_URL", path)
        raise HTTPException(403, "not signed by Twilio")
    return dict(pairs)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "the form is too large")
    return bytes(body)


def _parse_form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise HTTPException(400, "no form") from error


def _call_sid(form: dict[str, str], settings: Settings) -> CallSid:
    call_sid, account_sid = form.get("CallSid", ""), form.get("AccountSid", "")
    if not call_sid.isalnum() or not call_sid.isascii() or len(call_sid) > MAX_SID_LENGTH:
        raise HTTPException(400, "CallSid is missing or malformed")
    if settings.twilio_account_sid and account_sid != settings.twilio_account_sid:
        raise HTTPException(403, "another account")
    return CallSid(call_sid)


def _require_local(request: Request) -> None:
    """Refuse what came from outside; a tunnel connects from this machine too, but keeps the public host name."""
    client = request.client.host if request.client else ""
    if not is_loopback(client) or not is_loopback(request.url.hostname or ""):
        raise HTTPException(403, "for this machine only")
