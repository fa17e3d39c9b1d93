"""`WS /api/calls/{call_sid}/events`: what happens in one call, as JSON, for those who run the service."""

from collections.abc import Callable

from fastapi import APIRouter, HTTPException, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse

from app.calls.manager import CallManager
from app.http.feed import feed
from app.http.operator_auth import is_own_page
from app.twilio.events import CallSid


def build_event_router(manager: CallManager, require_operator: Callable[[HTTPConnection], None]) -> APIRouter:
    """Return the route; `require_operator` raises HTTPException for whom it is not meant."""
    router = APIRouter()

    @router.websocket("/api/calls/{call_sid}/events")
    async def events(websocket: WebSocket, call_sid: CallSid, audio: bool = False) -> None:
        try:
            require_operator(websocket)
            _require_own_page(websocket)
            _require_running(manager, call_sid)
        except HTTPException as refusal:
            await websocket.send_denial_response(PlainTextResponse(refusal.detail, refusal.status_code))
            return
        async with manager.events.subscribe(call_sid, audio=audio) as subscription:
            await feed(websocket, (event.to_json() async for event in subscription))

    return router


def _require_own_page(websocket: WebSocket) -> None:
    """Refuse a page of another site in the operator's browser, even with the token."""
    if not is_own_page(websocket):
        raise HTTPException(403, "not for pages of other sites")


def _require_running(manager: CallManager, call_sid: CallSid) -> None:
    if manager.call(call_sid) is None:
        raise HTTPException(404, "no such call")
