"""`POST /api/drain`: operators have the service stop without cutting anybody off."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.http.operator_auth import OperatorAuth

LONGEST_S = 14_400


def build_drain_router(operators: OperatorAuth, drain: Drain, manager: CallManager, longest_call_s: float) -> APIRouter:
    """Return the route by which operators drain the service; who says no limit waits as long as calls may last."""
    router = APIRouter(dependencies=[Depends(operators.require)])

    @router.post("/api/drain", status_code=202)
    async def begin(seconds: Annotated[int | None, Query(ge=0, le=LONGEST_S)] = None) -> dict[str, object]:
        drain.begin(drain.limit_s or longest_call_s if seconds is None else seconds)
        return {"calls": manager.active_calls, "seconds": drain.limit_s}

    return router
