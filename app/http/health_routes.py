"""`/healthz` and `/readyz` for everybody, `/metrics` for operators."""

import asyncio
from collections.abc import Callable, Iterable

from fastapi import APIRouter, Depends, Response

from app.calls.manager import CallManager
from app.http.operator_auth import OperatorAuth
from app.telemetry.metrics.families import CONTENT_TYPE, Family, texts


def build_health_router(manager: CallManager, metrics: Callable[[], Iterable[Family]], auth: OperatorAuth) -> APIRouter:
    """Return the routes."""
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
