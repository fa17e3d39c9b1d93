"""`GET /metrics`: all numbers as Prometheus reads them, for those who run the service."""

import asyncio
from collections.abc import Callable, Iterable

from fastapi import APIRouter, Request, Response
from starlette.requests import HTTPConnection

from app.telemetry.metrics.families import CONTENT_TYPE, Family, texts


def build_metrics_router(
    families: Callable[[], Iterable[Family]], require_operator: Callable[[HTTPConnection], None]
) -> APIRouter:
    """Return the route; `require_operator` raises HTTPException for whom it is not meant."""
    router = APIRouter()

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        require_operator(request)
        return Response(await write_page(families()), media_type=CONTENT_TYPE)

    return router


async def write_page(families: Iterable[Family]) -> bytes:
    """Write the page, a family at each turn of the event loop: all at once would hold the calls up."""
    page = bytearray()
    for text in texts(families):
        page += text
        await asyncio.sleep(0)
    return bytes(page)
