"""`POST /api/calls/{call_sid}/transfer`: a call that is on is passed on to a person."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request

from app.calls.transfer import Transfer, TransferBy, TransferRefusal, TransferRefused
from app.http import api_schemas as api
from app.http.json_body import read_strings
from app.logging import mask_number
from app.twilio.events import CallSid

WANTED = 'send a JSON object {"to": "+15551234567"}, or {} for TRANSFER_TO'
MAX_BYTES = 4_096
STATUSES = {
    TransferRefusal.NOT_ON: HTTPStatus.NOT_FOUND,
    TransferRefusal.NOT_LIVE: HTTPStatus.CONFLICT,
    TransferRefusal.NO_TARGET: HTTPStatus.UNPROCESSABLE_ENTITY,
    TransferRefusal.FORBIDDEN: HTTPStatus.FORBIDDEN,
    TransferRefusal.NO_ACCOUNT: HTTPStatus.CONFLICT,
    TransferRefusal.NOT_PLACED: HTTPStatus.BAD_GATEWAY,
}
TransferCall = Callable[[CallSid, str, TransferBy], Awaitable[Transfer]]


def build_transfer_router(transfer: TransferCall) -> APIRouter:
    """Return the route, for a router that lets in operators alone."""
    router = APIRouter()

    @router.post(
        "/calls/{call_sid}/transfer",
        status_code=HTTPStatus.ACCEPTED,
        response_model=api.TransferAnswer,
        openapi_extra=api.body_of(api.TransferRequest),
    )
    async def transfer_call(request: Request, call_sid: CallSid) -> dict[str, object]:
        (to,) = await read_strings(request, WANTED, MAX_BYTES, to="")
        try:
            begun = await transfer(call_sid, to, TransferBy.OPERATOR)
        except TransferRefused as refused:
            raise HTTPException(STATUSES[refused.reason], str(refused)) from None
        return {"call_sid": call_sid, "to": mask_number(begun.to)}

    return router
