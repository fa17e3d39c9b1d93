"""`WS /api/calls/{call_sid}/events`: what happens in one call, as JSON, for those who run the service."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse
from starlette.websockets import WebSocketDisconnect

from app.events import Subscription
from app.switchboard import Switchboard
from app.twilio.events import CallSid


def build_event_router(switchboard: Switchboard, require_operator: Callable[[HTTPConnection], None]) -> APIRouter:
    """Return the route; `require_operator` raises HTTPException for whom it is not meant."""
    router = APIRouter()

    @router.websocket("/api/calls/{call_sid}/events")
    async def events(websocket: WebSocket, call_sid: CallSid, audio: bool = False) -> None:
        try:
            require_operator(websocket)
            _require_own_page(websocket)
            _require_running(switchboard, call_sid)
        except HTTPException as refusal:
            await websocket.send_denial_response(PlainTextResponse(refusal.detail, refusal.status_code))
            return
        async with switchboard.events.subscribe(call_sid, audio=audio) as subscription:
            await websocket.accept()
            await _feed(websocket, subscription)

    return router


async def _feed(websocket: WebSocket, subscription: Subscription) -> None:
    """Send events until the call is over or the reader is gone; what he says is not listened to."""
    sending = asyncio.create_task(_send(websocket, subscription))
    try:
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass
    finally:
        sending.cancel()
        await asyncio.wait({sending})


async def _send(websocket: WebSocket, subscription: Subscription) -> None:
    try:
        async for event in subscription:
            await websocket.send_text(event.to_json())
        await websocket.close()
    except (WebSocketDisconnect, RuntimeError):  # the reader is gone, or has been told so
        return


def _require_own_page(websocket: WebSocket) -> None:
    """Refuse a page of another site in the operator's browser: browsers let any page open any socket."""
    origin = websocket.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != websocket.headers.get("host"):
        raise HTTPException(403, "not for pages of other sites")


def _require_running(switchboard: Switchboard, call_sid: CallSid) -> None:
    if not any(record.call_sid == call_sid and record.end is None for record in switchboard.records()):
        raise HTTPException(404, "no such call")
