"""`moshi-bridge drain`: asks the running service to stop when its calls have ended, and waits for that."""

import asyncio

from app.cli.service_client import NoService, ServiceClient, open_service, run_asking
from app.config import Settings

LOOK_AGAIN_S = 0.5


def run_drain(settings: Settings, url: str | None, seconds: int | None, wait: bool) -> int:
    return run_asking(_drain(settings, url, seconds, wait))


async def _drain(settings: Settings, url: str | None, seconds: int | None, wait: bool) -> None:
    query = {} if seconds is None else {"seconds": str(seconds)}
    async with open_service(settings, url) as service:
        answer = await service.ask("/api/drain", "POST", **query)
        calls = int(answer["calls"])
        print(f"draining: {calls} call{'' if calls == 1 else 's'}, for at most {float(answer['seconds']):.0f} s")
        if wait:
            await _wait(service, calls)
            print("stopped")


async def _wait(service: ServiceClient, calls: int) -> None:
    while True:
        await asyncio.sleep(LOOK_AGAIN_S)
        before = calls
        try:
            calls = int((await service.ask("/readyz"))["calls"])
        except NoService:
            return
        if calls != before:
            print(f"{calls} left")
