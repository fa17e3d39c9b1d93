"""`moshi-bridge drain`: asks the running service to stop when its calls have ended, and waits for that."""

import asyncio

from app.cli.service_client import NoService, ServiceClient, open_service, run_asking
from app.config import Settings

LOOK_AGAIN_S = 0.5


def run_drain(settings: Settings, url: str | None, seconds: int | None, wait: bool) -> int:
    """Drain the service at `url`, by default the one of these settings; return the exit status."""
    return run_asking(_drain(settings, url, seconds, wait))


async def _drain(settings: Settings, url: str | None, seconds: int | None, wait: bool) -> None:
    async with open_service(settings, url) as service:
        query = {} if seconds is None else {"seconds": str(seconds)}
        answer = await service.ask("/api/drain", "POST", **query)
        calls: int | None = int(answer["calls"])
        print(f"draining: {calls} call{'' if calls == 1 else 's'}, for at most {float(answer['seconds']):.0f} s")
        while wait and calls is not None:
            await asyncio.sleep(LOOK_AGAIN_S)
            calls = await _calls_left(service, calls)
        if wait:
            print("stopped")


async def _calls_left(service: ServiceClient, before: int) -> int | None:
    """Return how many calls are still on, and print it if there are fewer; None when the service has stopped."""
    try:
        calls = int((await service.ask("/readyz"))["calls"])
    except NoService:
        return None
    if calls != before:
        print(f"{calls} left")
    return calls
