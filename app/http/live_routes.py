"""What goes on right now: `/api/live`, pushed over a WebSocket or polled, and the events of one call."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from app.calls.manager import CallManager
from app.http.operator_auth import OperatorAuth
from app.http.operator_routes import json_response
from app.telemetry.live import SNAPSHOT_EVERY_S, LiveView, call_detail
from app.twilio.events import CallSid

MAX_READERS = 32
SEND_WITHIN_S = 10.0
"""A reader that accepts nothing for so long is gone."""


def build_live_router(auth: OperatorAuth, manager: CallManager, live: LiveView) -> APIRouter:
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])
    readers: set[WebSocket] = set()

    @router.websocket("/live")
    async def push(websocket: WebSocket) -> None:
        if len(readers) >= MAX_READERS:
            raise HTTPException(503, f"{MAX_READERS} pages are open already")
        readers.add(websocket)
        try:
            await send_texts(websocket, _snapshots(live))
        finally:
            readers.discard(websocket)

    @router.get("/live")
    async def poll(first: bool = False) -> Response:
        return Response(live.first() if first else live.latest(), media_type="application/json")

    @router.get("/live/{call_sid}")
    async def detail(call_sid: CallSid, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        record = manager.record(call_sid)
        if record is None:
            raise HTTPException(404, "this service has no such call any more")
        copy = record.copy()
        return await json_response(lambda: call_detail(copy, after))

    @router.websocket("/calls/{call_sid}/events", dependencies=[Depends(auth.require_own_page)])
    async def events(websocket: WebSocket, call_sid: CallSid, audio: bool = False) -> None:
        if manager.call(call_sid) is None:
            raise HTTPException(404, "no such call")
        async with manager.events.subscribe(call_sid, audio=audio) as subscription:
            await send_texts(websocket, (event.to_json() async for event in subscription))

    return router


async def _snapshots(live: LiveView) -> AsyncIterator[str]:
    """Yield snapshots at the same moments for all readers, so that they share them."""
    yield live.first()
    while True:
        await asyncio.sleep(SNAPSHOT_EVERY_S - time.monotonic() % SNAPSHOT_EVERY_S)
        yield live.latest()


async def send_texts(websocket: WebSocket, texts: AsyncIterator[str]) -> None:
    """Accept the socket and send until there is no more or the reader is gone; its messages are ignored."""
    await websocket.accept()
    tasks = {asyncio.create_task(_send(websocket, texts)), asyncio.create_task(_until_closed(websocket))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _send(websocket: WebSocket, texts: AsyncIterator[str]) -> None:
    try:
        async for text in texts:
            async with asyncio.timeout(SEND_WITHIN_S):
                await websocket.send_text(text)
        await websocket.close()
    except (WebSocketDisconnect, RuntimeError, TimeoutError):  # the reader is gone
        return


async def _until_closed(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
