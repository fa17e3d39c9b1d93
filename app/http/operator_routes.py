"""`/api/` and `/metrics` for operators and programs on this machine, `/healthz` and `/readyz` for everybody.

`/api/live` says what goes on right now: it is pushed over a WebSocket or polled.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Response, WebSocket
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute
from starlette.websockets import WebSocketDisconnect

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.http import api_schemas as api
from app.http.call_routes import json_response
from app.http.operator_auth import OperatorAuth
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import SNAPSHOT_EVERY_S, LiveView, call_detail
from app.telemetry.metrics.exposition import CONTENT_TYPE, Family, texts
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress

VERSION = "1"
ABOUT = "For operators: from the machine itself, or with OPERATOR_TOKEN. Sockets and webhooks: docs/api.md."
DrainSeconds = Annotated[int | None, Query(ge=0, le=14_400)]
MAX_READERS = 32
SEND_WITHIN_S = 10.0
"""A reader that accepts nothing for so long is gone."""


def build_operator_router(
    auth: OperatorAuth,
    manager: CallManager,
    drain: Drain,
    lag: EventLoopLag,
    public: PublicAddress,
    max_call_s: float,
) -> APIRouter:
    """Return the routes; a drain without a limit lasts as long as calls may."""
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])

    @router.post("/drain", status_code=202, response_model=api.DrainAnswer)
    async def begin_drain(seconds: DrainSeconds = None) -> dict[str, object]:
        drain.begin(drain.limit_s or max_call_s if seconds is None else seconds)
        return {"calls": manager.active_calls, "seconds": drain.limit_s}

    @router.get("/loop", response_model=api.LoopLag)
    async def loop() -> dict[str, float]:
        return lag.as_json()

    @router.get("/public", response_model=api.PublicAnswer)
    async def address() -> dict[str, object]:
        return {"base_url": public.base_url, "open": public.is_open, "service": public.service_name}

    return router


def build_health_router(manager: CallManager, metrics: Callable[[], Iterable[Family]], auth: OperatorAuth) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz", response_model=api.AliveAnswer)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", response_model=api.ReadyAnswer, responses={503: {"model": api.ReadyAnswer}})
    async def readyz(response: Response, full: Literal["ready"] | None = None) -> dict[str, object]:
        """Return 503 when a new call would get no slot; with `?full=ready`, being full counts as ready."""
        if not (manager.takes_calls if full else manager.ready):
            response.status_code = 503
        return {
            "ready": manager.ready,
            "free_slots": manager.free_slots,
            "calls": manager.active_calls,
            "draining": manager.draining,
            "pipeline": manager.pipeline,
            "suspended": len(manager.suspended),
        }

    @router.get("/metrics", dependencies=[Depends(auth.require)], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        return Response(await write_metrics(metrics()), media_type=CONTENT_TYPE)

    return router


async def write_metrics(families: Iterable[Family]) -> bytes:
    """Write one family per turn of the event loop: all at once would delay the calls."""
    page = bytearray()
    for text in texts(families):
        page += text
        await asyncio.sleep(0)
    return bytes(page)


def build_live_router(auth: OperatorAuth, manager: CallManager, live: LiveView) -> APIRouter:
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])
    free_readers = asyncio.Semaphore(MAX_READERS)

    @router.websocket("/live")
    async def push(websocket: WebSocket) -> None:
        if free_readers.locked():
            raise HTTPException(503, f"{MAX_READERS} pages are open already")
        async with free_readers:
            await send_texts(websocket, _snapshots(live))

    @router.get("/live", response_model=api.LiveSnapshot)
    async def poll(first: bool = False) -> Response:
        return Response(live.first() if first else live.latest(), media_type="application/json")

    @router.get("/live/{call_sid}", response_model=api.LiveDetail)
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


def build_openapi_router(auth: OperatorAuth, routes: Sequence[BaseRoute]) -> APIRouter:
    """`routes` are all routes of the application; those of Twilio and of the page keep themselves out."""
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)], include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(describe(routes))

    return router


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    found = get_openapi(title="moshi-bridge", version=VERSION, description=ABOUT, routes=routes)
    found["components"]["securitySchemes"] = {"operator": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{}, {"operator": []}]
    return found
