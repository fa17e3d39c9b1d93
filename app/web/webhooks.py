"""What Twilio sends us, checked: forms with their signature, and the upgrade of a socket."""

from urllib.parse import parse_qsl

from fastapi import HTTPException, Request, Response, WebSocket
from starlette.requests import HTTPConnection

from app.service.public import PublicAddress
from app.twilio.events import CallSid
from app.twilio.form import Form
from app.twilio.signature import SIGNATURE_HEADER
from app.web.refusals import Refusals, Refused

MAX_FORM_BYTES = 32_768
"""Twilio's are a tenth of it unless add-ons answer at length; a stranger's costs all calls the time to read it."""
MAX_FORM_FIELDS = 200
MAX_SID_LENGTH = 64


class Webhooks:
    """The door for Twilio, and for nobody else."""

    def __init__(self, public: PublicAddress, account_sid: str, refusals: Refusals) -> None:
        self._public = public
        self._account_sid = account_sid
        self._refusals = refusals

    async def read(self, request: Request) -> Form:
        """Return the form of a webhook. Raises HTTPException 413, 400, 403 or 429 if it is none of Twilio's."""
        signature = request.headers.get(SIGNATURE_HEADER)
        pairs = _parse_form(await _body(request)) if signature or not self._public.check else []
        path, query = _path(request), request.scope["query_string"].decode("ascii", "replace")
        check = self._public.check
        if check and not check.webhook_valid(f"{path}?{query}" if query else path, pairs, signature):
            raise self._refusals.turn_away(request, Refused.UNSIGNED)
        return self._form(dict(pairs), query)

    def check_socket(self, connection: HTTPConnection) -> None:
        """Raise HTTPException 403 or 429 unless Twilio asks for this socket."""
        signature = connection.headers.get(SIGNATURE_HEADER)
        check = self._public.check
        if check and not check.socket_valid(_path(connection), signature):
            raise self._refusals.turn_away(connection, Refused.UNSIGNED)

    def refuse_token(self) -> HTTPException:
        """Return the answer to a socket whose request is signed, but whose token claims no call."""
        self._refusals.counts[Refused.NO_TOKEN] += 1
        return HTTPException(403, Refused.NO_TOKEN)

    def _form(self, fields: dict[str, str], query: str) -> Form:
        call_sid = fields.get("CallSid", "")
        if not call_sid.isalnum() or not call_sid.isascii() or len(call_sid) > MAX_SID_LENGTH:
            raise HTTPException(400, "CallSid is missing or malformed")
        if self._account_sid and fields.get("AccountSid", "") != self._account_sid:
            raise HTTPException(403, "another account")
        return Form(CallSid(call_sid), fields, query)


async def deny(websocket: WebSocket, refusal: HTTPException) -> None:
    """Refuse a socket before it is accepted."""
    await websocket.send_denial_response(Response(refusal.detail, refusal.status_code, refusal.headers))


def _path(connection: HTTPConnection) -> str:
    path: str = connection.scope["raw_path"].decode("ascii", "replace")
    return path


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
