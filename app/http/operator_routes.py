"""`/api/`: what operators and programs on this machine ask of the service, and tell it to do."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.http.operator_auth import OperatorAuth
from app.logging import CallLog
from app.telemetry.event_loop_lag import EventLoopLag
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
