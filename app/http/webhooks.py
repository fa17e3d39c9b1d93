"""Twilio's webhooks and upgrades, with their signatures checked."""

import asyncio
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from starlette.requests import HTTPConnection

from app.http.rate_limit import RateLimiter, RefusalReason
from app.twilio.events import CallSid
from app.twilio.form import Form
from app.twilio.public_address import PublicAddress
from app.twilio.signature import SIGNATURE_HEADER

MAX_FORM_BYTES = 65_536
"""Twilio's are a tenth of it unless add-ons answer at length or a SIP call has many headers."""
MAX_FORM_FIELDS = 1_000
"""A call through a SIP trunk has one for each header."""
FORM_WITHIN_S = 10.0
MAX_SID_LENGTH = 64


class Webhooks:
    """Reads Twilio's forms and checks what it signed."""

    def __init__(
        self, public: PublicAddress, account_sid: str, limiter: RateLimiter, form_within_s: float = FORM_WITHIN_S
    ) -> None:
        self._form_within_s = form_within_s
        self._public = public
        self._account_sid = account_sid
        self._limiter = limiter

    async def read(self, request: Request) -> Form:
        """Return the form of a webhook. Raises HTTPException 413, 408, 400, 403 or 429 if it is none of Twilio's."""
        signature = request.headers.get(SIGNATURE_HEADER)
        pairs = await self._pairs(request) if signature or not self._public.check else []
        path, query = _path(request), request.scope["query_string"].decode("ascii", "replace")
        check, host = self._public.check, request.headers.get("host", "")
        if check and not check.webhook_valid(f"{path}?{query}" if query else path, pairs, signature, host):
            raise self._wrong_signature(request, signature)
        return self._form(request, dict(pairs), query)

    def check_socket(self, connection: HTTPConnection) -> None:
        """Raise HTTPException 403 or 429 unless Twilio asks for this socket."""
        signature = connection.headers.get(SIGNATURE_HEADER)
        check = self._public.check
        if check and not check.socket_valid(_path(connection), signature):
            raise self._wrong_signature(connection, signature)

    def refuse_token(self) -> HTTPException:
        """Return the answer to a socket whose request is signed, but whose token claims no call."""
        self._limiter.counts[RefusalReason.NO_TOKEN] += 1
        return HTTPException(403, RefusalReason.NO_TOKEN)

    def _wrong_signature(self, connection: HTTPConnection, signature: str | None) -> HTTPException:
        return self._limiter.refuse(connection, RefusalReason.WRONG_SIGNATURE if signature else RefusalReason.UNSIGNED)

    def _form(self, request: Request, fields: dict[str, str], query: str) -> Form:
        call_sid = fields.get("CallSid", "")
        if not call_sid.isalnum() or not call_sid.isascii() or len(call_sid) > MAX_SID_LENGTH:
            raise self._limiter.refuse(request, RefusalReason.MALFORMED)
        if self._account_sid and fields.get("AccountSid", "") != self._account_sid:
            raise self._limiter.refuse(request, RefusalReason.OTHER_ACCOUNT)
        return Form(CallSid(call_sid), fields, query)

    async def _pairs(self, request: Request) -> list[tuple[str, str]]:
        """Return the fields of a form. Raises HTTPException."""
        try:
            body = await read_body(request, MAX_FORM_BYTES, self._form_within_s)
        except TimeoutError:
            raise self._limiter.refuse(request, RefusalReason.TOO_SLOW) from None
        if body is None:
            raise self._limiter.refuse(request, RefusalReason.TOO_LARGE)
        try:
            return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
        except ValueError:
            raise self._limiter.refuse(request, RefusalReason.MALFORMED) from None


def _path(connection: HTTPConnection) -> str:
    path: str = connection.scope["raw_path"].decode("ascii", "replace")
    return path


async def read_body(request: Request, max_bytes: int, within_s: float = FORM_WITHIN_S) -> bytes | None:
    """Return the body of a request, None if it is larger. Raises TimeoutError."""
    body = bytearray()
    async with asyncio.timeout(within_s):
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                return None
    return bytes(body)
