"""`moshi-bridge drain`: has the running service, or a node, stop when its calls have ended, and waits for it."""

import asyncio

from app.cli.options import EXIT_FAILED, fail
from app.cli.service_client import NoService, ServiceClient, open_service, run_asking
from app.config import Settings

LOOK_AGAIN_S = 0.5


def run_drain(settings: Settings, url: str | None, node: str | None, seconds: int | None, wait: bool) -> int:
    """Return the exit status; without a `node` it is the service here."""
    try:
        return run_asking(_drain(settings, url, node, seconds, wait))
    except KeyboardInterrupt:
        return fail("interrupted; what was to drain goes on draining", EXIT_FAILED)


def is_node_name(text: str) -> bool:
    """Tell a node's name from a URL."""
    return text.replace("-", "").isalnum()


async def _drain(settings: Settings, url: str | None, node: str | None, seconds: int | None, wait: bool) -> None:
    query = {} if seconds is None else {"seconds": str(seconds)}
    async with open_service(settings, url) as service:
        before = None
        if node:
            await service.ask(f"/api/cluster/{node}/drain", "POST", **query)
            print(f"{node} drains")
        else:
            answer = await service.ask("/api/drain", "POST", **query)
            before = int(answer["calls"])
            print(f"draining: {before} call{'' if before == 1 else 's'}, for at most {float(answer['seconds']):.0f} s")
        if wait:
            await _wait(service, node, before)
            print("stopped")


async def _wait(service: ServiceClient, node: str | None, before: int | None) -> None:
    while (calls := await _calls(service, node)) is not None:
        if calls != before:
            print(f"{calls} left")
            before = calls
        await asyncio.sleep(LOOK_AGAIN_S)


async def _calls(service: ServiceClient, node: str | None) -> int | None:
    """Return how many calls are on there, None once it has stopped."""
    if node:
        nodes = {one["node"]: one for one in (await service.ask("/api/cluster"))["nodes"]}
        return len(nodes[node]["calls"]) if node in nodes else None
    try:
        return int((await service.ask("/readyz"))["calls"])
    except NoService:
        return None
