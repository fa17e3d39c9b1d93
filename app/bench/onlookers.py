"""What looks on at a service while calls are on: an open page, a listener, Prometheus, a collector of traces."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import web

SCRAPE_EVERY_S = 5.0
LOOK_AGAIN_S = 0.2

Onlooker = Callable[[aiohttp.ClientSession], Awaitable[None]]
"""Looks on at the service that is the base of the session, until cancelled."""


async def keep_the_page_open(client: aiohttp.ClientSession) -> None:
    """Read the live view as an open page does."""
    async with client.ws_connect("/api/live") as socket:
        async for _ in socket:
            pass


async def listen(client: aiohttp.ClientSession) -> None:
    """Listen to one of the calls that are on, to all that happens in it and to its audio."""
    while True:
        async with client.get("/api/calls", raise_for_status=True) as answer:
            calls = [call["call_sid"] for call in await answer.json() if call["end"] is None and call["started_s"]]
        for call_sid in calls[:1]:
            await _hear_out(client, call_sid)
        await asyncio.sleep(LOOK_AGAIN_S)


async def _hear_out(client: aiohttp.ClientSession, call_sid: str) -> None:
    with contextlib.suppress(aiohttp.WSServerHandshakeError):  # the call has just ended
        async with client.ws_connect(f"/api/calls/{call_sid}/events?audio=true") as socket:
            async for _ in socket:
                pass


async def scrape(client: aiohttp.ClientSession) -> None:
    """Read the numbers as Prometheus does, oftener than it is told to."""
    while True:
        async with client.get("/metrics", raise_for_status=True) as answer:
            await answer.read()
        await asyncio.sleep(SCRAPE_EVERY_S)


@contextlib.asynccontextmanager
async def looking_on(base_url: str, onlookers: tuple[Onlooker, ...]) -> AsyncIterator[None]:
    """Let some look on while the block lasts. Raises what one of them could not go on for."""
    async with aiohttp.ClientSession(base_url) as client:
        looking = [asyncio.ensure_future(onlooker(client)) for onlooker in onlookers]
        try:
            yield
            for one in looking:
                if one.done():
                    await one
        finally:
            for one in looking:
                one.cancel()
            await asyncio.gather(*looking, return_exceptions=True)


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[str]:
    """Take traces and forget them; yield where."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1/traces"
    finally:
        await runner.cleanup()
