"""`moshi-bridge drain`: asks the running service to stop when its calls have ended, and waits for that."""

import asyncio
import sys
from http import HTTPStatus

import aiohttp

from app.cli.running import NOT_LET_IN, NOT_OURS, UNLIKE_OURS, operator_headers
from app.config import Settings
from app.twilio.signature import checked_base

LOOK_AGAIN_S = 0.5
ANSWER_WITHIN_S = 10.0
EXIT_SETTINGS = 2


class DrainFailed(Exception):
    """The service was not reached, or does not let us; the message is one line."""


def run_drain(settings: Settings, url: str | None, seconds: int | None, wait: bool) -> int:
    """Drain the service at `url`, by default the one of these settings; return the exit status."""
    try:
        asyncio.run(_drain(settings, checked_base(url or settings.local_url), seconds, wait))
    except (DrainFailed, ValueError) as error:
        print(f"moshi-bridge: {error}", file=sys.stderr)
        return EXIT_SETTINGS if isinstance(error, ValueError) else 1
    return 0


async def _drain(settings: Settings, url: str, seconds: int | None, wait: bool) -> None:
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    async with aiohttp.ClientSession(url, headers=operator_headers(settings), timeout=timeout) as client:
        try:
            calls: int | None = await _ask(client, {} if seconds is None else {"seconds": str(seconds)})
        except (aiohttp.ClientError, TimeoutError) as error:
            advice = "drain stops the one that HOST and PORT name, or the one at the URL given"
            raise DrainFailed(f"no service answers at {url}; {advice}") from error
        while wait and calls is not None:
            await asyncio.sleep(LOOK_AGAIN_S)
            calls = await _calls_left(client, calls)
    if wait:
        print("stopped")


async def _ask(client: aiohttp.ClientSession, parameters: dict[str, str]) -> int:
    async with client.post("/api/drain", params=parameters) as answer:
        if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
            raise DrainFailed(NOT_LET_IN)
        if answer.status != HTTPStatus.ACCEPTED:
            raise DrainFailed(f"{NOT_OURS} (HTTP {answer.status})")
        try:
            told = await answer.json()
            calls, seconds = int(told["calls"]), float(told["seconds"])
        except UNLIKE_OURS as error:
            raise DrainFailed(NOT_OURS) from error
    print(f"draining: {calls} on the line, for at most {seconds:.0f} s")
    return calls


async def _calls_left(client: aiohttp.ClientSession, before: int) -> int | None:
    """Return how many calls are still on, and tell if there are fewer; None when the service has stopped."""
    try:
        async with client.get("/readyz") as answer:
            calls = int((await answer.json())["calls"])
    except (aiohttp.ClientError, TimeoutError, *UNLIKE_OURS):
        return None
    if calls != before:
        print(f"{calls} left")
    return calls
