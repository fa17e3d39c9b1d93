"""A running service with calls, and names by which a browser finds it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from websockets.asyncio.client import ClientConnection, connect

from app.audio import mulaw
from app.calls.chat_protocol import Kind
from app.twilio.events import CallSid
from tests.service.phone import Call
from tests.service.served import Served, served

OPERATOR_TOKEN = "a-long-operator-token"
TUNNEL, EVIL = "phone.example.com", "evil.example.com"
"""Names that lead the browser to this machine."""
NAMES = ",".join(f"MAP {name} 127.0.0.1" for name in (TUNNEL, EVIL))


class Running(Served):
    """A running service with callers who hum."""

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[CallSid]:
        """A call whose caller hums all the time, until the service hangs up or the block ends."""
        async with self.phone.call() as call, beside(hum(call)):
            yield call.call_sid

    @contextlib.asynccontextmanager
    async def chat(self) -> AsyncIterator[CallSid]:
        """The same as a chat."""
        url = f"ws://127.0.0.1:{self.phone.port}/api/chat?format=pcm"
        async with connect(url, compression=None, proxy=None) as socket, beside(hum_to(socket)):
            yield self.service.manager.calls[0].session.record.call_sid


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run it until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def hum_to(socket: ClientConnection) -> None:
    tone = (8_000 * np.sin(np.arange(960) * 2 * np.pi * 400 / 24_000)).astype("<i2").tobytes()
    async for message in socket:
        if message[0] == Kind.AUDIO:
            await socket.send(Kind.AUDIO.message(tone))


async def hum(call: Call) -> None:
    tone = mulaw.encode((8_000 * np.sin(np.arange(640) * 2 * np.pi * 400 / 8_000)).astype(np.int16))
    while True:
        await call.say(tone)
        await call.hear()


@contextlib.asynccontextmanager
async def serving(folder: Path, port: int = 0, **changes: object) -> AsyncIterator[Running]:
    """Run a service with a call log, an operator token and the persona ada, until the block or the service ends."""
    (folder / "ada.toml").touch()
    wanted: dict[str, Any] = {
        "operator_token": OPERATOR_TOKEN,
        "database_url": f"sqlite:///{folder / 'calls.db'}",
        "max_calls": 3,
        "personas_dir": str(folder),
        "persona": "ada",
    }
    async with served(port, **{**wanted, **changes}) as one:
        yield Running(one.service, one.settings, one.phone, one.log)


@contextlib.asynccontextmanager
async def evil_site() -> AsyncIterator[str]:
    """A site of somebody else's with an empty page.

    It is on this machine too, for newer browsers do not let a page of the internet reach this machine at all.
    """

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        yield f"http://{EVIL}:{server.port}/"
