"""Twilio's webhooks and its media socket, with their signatures checked."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response, WebSocket
from starlette.requests import ClientDisconnect, HTTPConnection

from app.calls.routing import Routing
from app.http.media import run_media_socket
from app.http.paths import AFTER_DIAL_PATH, AFTER_STREAM_PATH, AFTER_WAIT_PATH, WAIT_PATH
from app.http.rate_limit import MEDIA_PATH, RateLimiter, RefusalReason
from app.logging import CallLogger
from app.twilio.events import CallSid
from app.twilio.form import Form
from app.twilio.number import STATUS_PATH, VOICE_PATH
from app.twilio.public_address import PublicAddress
from app.twilio.signature import SIGNATURE_HEADER

log = logging.getLogger(__name__)

WEBHOOK_TOKEN_HEADER = "I-Twilio-Idempotency-Token"  # noqa: S105 - no secret
"""The same in all repeats of one webhook."""
MAX_FORM_BYTES = 65_536
"""Twilio's are a tenth of it unless add-ons answer at length or a SIP call has many headers."""
MAX_FORM_FIELDS = 1_000
"""A call through a SIP trunk has one for each header."""
FORM_WITHIN_S = 10.0
MAX_SID_LENGTH = 64


def build_twilio_router(
    webhooks: "Webhooks", routing: Routing, refresh_personas: Callable[[], Awaitable[None]]
) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.post(VOICE_PATH)
    async def voice(request: Request) -> Response:
        form = await webhooks.read(request)
        await refresh_personas()
        try:
            return _twiml(await routing.answer(form, request.headers.get(WEBHOOK_TOKEN_HEADER, "")))
        except ValueError as error:
            CallLogger(log, form.call_sid).warning("the voice URL's query: %s", error)
            raise HTTPException(400, str(error)) from error

    @router.post(AFTER_STREAM_PATH)
    async def after_stream(request: Request) -> Response:
        form = await webhooks.read(request)
        return _twiml(await routing.after_stream(form, request.headers.get(WEBHOOK_TOKEN_HEADER, "")))

    @router.post(AFTER_DIAL_PATH)
    async def after_dial(request: Request) -> Response:
        form = await webhooks.read(request)
        return _twiml(await routing.after_dial(form, request.headers.get(WEBHOOK_TOKEN_HEADER, "")))

    @router.post(STATUS_PATH)
    async def status(request: Request) -> Response:
        await routing.handle_status(await webhooks.read(request))
        return Response(status_code=204)

    @router.post(WAIT_PATH)
    async def wait(request: Request) -> Response:
        return _twiml(await routing.wait(await webhooks.read(request)))

    @router.post(AFTER_WAIT_PATH)
    async def after_wait(request: Request) -> Response:
        return _twiml(await routing.after_wait(await webhooks.read(request)))

    return router


def build_media_router(webhooks: "Webhooks", routing: Routing) -> APIRouter:
    router = APIRouter()

    @router.websocket(MEDIA_PATH + "{token}")
    async def media(websocket: WebSocket, token: str) -> None:
        webhooks.check_socket(websocket)
        call = routing.claim(token)
        if call is None:
            log.warning("socket refused: its token is unknown, used or expired")
            raise webhooks.refuse_token()
        await run_media_socket(websocket, call)

    return router


def _twiml(text: str) -> Response:
    return Response(text, media_type="application/xml")


@dataclass(frozen=True)
class Webhooks:
    """Reads Twilio's forms and checks what it signed."""

    public: PublicAddress
    account_sid: str
    limiter: RateLimiter
    form_within_s: float = FORM_WITHIN_S

    async def read(self, request: Request) -> Form:
        """Return the form of a webhook. Raises HTTPException 413, 408, 400, 403 or 429 if it is none of Twilio's."""
        signature, check = request.headers.get(SIGNATURE_HEADER), self.public.check
        pairs = await self._pairs(request) if signature or not check else []
        path, query = _path(request), request.scope["query_string"].decode("ascii", "replace")
        host = request.headers.get("host", "")
        if check and not check.webhook_valid(f"{path}?{query}" if query else path, pairs, signature, host):
            raise self._wrong_signature(request, signature)
        return self._form(request, dict(pairs), query)

    def check_socket(self, connection: HTTPConnection) -> None:
        """Raise HTTPException 403 or 429 unless Twilio asks for this socket."""
        signature = connection.headers.get(SIGNATURE_HEADER)
        if not self.public.socket_valid(_path(connection), signature):
            raise self._wrong_signature(connection, signature)

    def refuse_token(self) -> HTTPException:
        """Return the answer to a socket whose request is signed, but whose token claims no call."""
        self.limiter.counts[RefusalReason.NO_TOKEN] += 1
        return HTTPException(403, RefusalReason.NO_TOKEN)

    def _wrong_signature(self, connection: HTTPConnection, signature: str | None) -> HTTPException:
        return self.limiter.refuse(connection, RefusalReason.WRONG_SIGNATURE if signature else RefusalReason.UNSIGNED)

    def _form(self, request: Request, fields: dict[str, str], query: str) -> Form:
        call_sid = fields.get("CallSid", "")
        if not call_sid.isalnum() or not call_sid.isascii() or len(call_sid) > MAX_SID_LENGTH:
            raise self.limiter.refuse(request, RefusalReason.MALFORMED)
        if self.account_sid and fields.get("AccountSid", "") != self.account_sid:
            raise self.limiter.refuse(request, RefusalReason.OTHER_ACCOUNT)
        return Form(CallSid(call_sid), fields, query)

    async def _pairs(self, request: Request) -> list[tuple[str, str]]:
        try:
            body = await read_body(request, MAX_FORM_BYTES, self.form_within_s)
        except TimeoutError:
            raise self.limiter.refuse(request, RefusalReason.TOO_SLOW) from None
        if body is None:
            raise self.limiter.refuse(request, RefusalReason.TOO_LARGE)
        try:
            return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
        except ValueError:
            raise self.limiter.refuse(request, RefusalReason.MALFORMED) from None


def _path(connection: HTTPConnection) -> str:
    path: str = connection.scope["raw_path"].decode("ascii", "replace")
    return path


async def read_body(request: Request, max_bytes: int, within_s: float = FORM_WITHIN_S) -> bytes | None:
    """Return the body of a request, None if it is larger. Raises TimeoutError, also if the client leaves before."""
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    return None
    except ClientDisconnect:
        raise TimeoutError from None
    return bytes(body)
