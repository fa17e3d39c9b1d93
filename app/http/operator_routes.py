"""`/api/`, `/metrics` for operators and programs on this machine, `/healthz` and `/readyz` for everybody."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.http.operator_auth import OperatorAuth
from app.logging import CallLog
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.metrics.families import CONTENT_TYPE, Family, texts
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress

log = logging.getLogger(__name__)

MAX_DRAIN_S = 14_400


def build_operator_router(
    auth: OperatorAuth, manager: CallManager, drain: Drain, lag: EventLoopLag, public: PublicAddress, max_call_s: float
) -> APIRouter:
    """Return the routes; a drain without a limit lasts as long as calls may."""
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])

    @router.get("/calls")
    async def calls() -> Response:
        return await json_response(lambda: [record.summary() for record in manager.records()])

    @router.get("/calls/{call_sid}")
    async def call(call_sid: CallSid) -> Response:
        record = manager.record(call_sid)
        if record is None:
            raise HTTPException(404, "no such call")
        return await json_response(record.copy().as_json)

    @router.post("/calls/{call_sid}/hangup", status_code=202)
    async def hang_up(call_sid: CallSid) -> dict[str, object]:
        if not manager.hang_up(call_sid):
            raise HTTPException(404, "no such call is on")
        CallLog(log, call_sid).info("an operator hangs up")
        return {"call_sid": call_sid}

    @router.post("/drain", status_code=202)
    async def begin_drain(seconds: Annotated[int | None, Query(ge=0, le=MAX_DRAIN_S)] = None) -> dict[str, object]:
        drain.begin(drain.limit_s or max_call_s if seconds is None else seconds)
        return {"calls": manager.active_calls, "seconds": drain.limit_s}

    @router.get("/loop")
    async def loop() -> dict[str, float]:
        return lag.as_json()

    @router.get("/public")
    async def address() -> dict[str, object]:
        return {"base_url": public.base_url, "open": public.is_open, "service": public.service_name}

    return router


async def json_response(make: Callable[[], object]) -> Response:
    """Make an answer off the event loop: that of an hour-long call takes a while."""
    return Response(await asyncio.to_thread(lambda: json.dumps(make())), media_type="application/json")


def build_health_router(manager: CallManager, metrics: Callable[[], Iterable[Family]], auth: OperatorAuth) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        if not manager.ready:
            response.status_code = 503
        return {
            "ready": manager.ready,
            "free_slots": manager.free_slots,
            "calls": manager.active_calls,
            "draining": manager.draining,
            "pipeline": manager.pipeline,
        }

    @router.get("/metrics", dependencies=[Depends(auth.require)])
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
