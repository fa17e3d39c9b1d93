"""`/api/live`: what goes on right now, pushed over a socket or asked for; and the way to end a call."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response, WebSocket

from app.calls.manager import CallManager
from app.http.feed import feed
from app.http.operator_auth import OperatorAuth
from app.http.webhooks import deny
from app.logging import CallLog
from app.telemetry.live import BEAT_S, LiveView, call_detail
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

MOST_READERS = 32


def build_live_router(operators: OperatorAuth, manager: CallManager, live: LiveView) -> APIRouter:
    """Return the routes by which operators look on, and end a call."""
    router = APIRouter()
    readers: set[WebSocket] = set()

    @router.websocket("/api/live")
    async def push(websocket: WebSocket) -> None:
        try:
            operators.require(websocket)
            if len(readers) >= MOST_READERS:
                raise HTTPException(503, f"{MOST_READERS} are looking on already")
        except HTTPException as refusal:
            await deny(websocket, refusal)
            return
        readers.add(websocket)
        try:
            await feed(websocket, _snapshots(live))
        finally:
            readers.discard(websocket)

    @router.get("/api/live")
    async def ask(request: Request, first: bool = False) -> Response:
        operators.require(request)
        return Response(live.first() if first else live.latest(), media_type="application/json")

    @router.get("/api/live/{call_sid}")
    async def course(request: Request, call_sid: CallSid, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        operators.require(request)
        record = manager.record(call_sid)
        if record is None:
            raise HTTPException(404, "this service has no such call any more")
        copy = record.copy()
        told = await asyncio.to_thread(lambda: json.dumps(call_detail(copy, after)))
        return Response(told, media_type="application/json")

    @router.post("/api/calls/{call_sid}/hangup", status_code=202)
    async def hang_up(request: Request, call_sid: CallSid) -> dict[str, object]:
        operators.require(request)
        if not manager.hang_up(call_sid):
            raise HTTPException(404, "no such call is on")
        CallLog(log, call_sid).info("an operator hangs up")
        return {"call_sid": call_sid}

    return router


async def _snapshots(live: LiveView) -> AsyncIterator[str]:
    """Yield one snapshot a beat, at the same moments for all readers, so that they share it."""
    yield live.first()
    while True:
        await asyncio.sleep(BEAT_S - time.monotonic() % BEAT_S)
        yield live.latest()
