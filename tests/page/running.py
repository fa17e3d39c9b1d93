"""A running service with calls, and names by which a browser finds it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect

from app.audio import mulaw
from app.calls.active_call import ActiveCall as LiveCall
from app.calls.chat_protocol import Kind
from app.server.service import Service
from app.twilio.events import CallSid
from tests.service.phone import Call, Phone
from tests.service.served import served
from workers.messages import Frame, Heard

OPERATOR_TOKEN = "a-long-operator-token"
TUNNEL, EVIL = "phone.example.com", "evil.example.com"
"""Names that lead the browser to this machine."""
NAMES = ",".join(f"MAP {name} 127.0.0.1" for name in (TUNNEL, EVIL))


@dataclass
class Running:
    """A running service, its phone, and where a browser finds it."""

    service: Service
    phone: Phone

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.phone.port}/"

    def live(self, call_sid: CallSid) -> LiveCall:
        call = self.service.manager.call(call_sid)
        assert call
        return call

    def says(self, call_sid: CallSid, text: str) -> None:
        """Let Moshi say a piece of text, as if it came from the pipeline."""
        reservation = self.live(call_sid).reservation
        self.service.manager.handle_message(Frame(reservation.slot, reservation.epoch, 0, None, text))

    def hears(self, call_sid: CallSid, word: str, start_s: float) -> None:
        """Let the transcriber hear a word of the caller's."""
        reservation = self.live(call_sid).reservation
        heard = Heard(reservation.slot, reservation.epoch, word, start_s, start_s + 0.3)
        self.service.manager.handle_transcript(heard)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[CallSid]:
        """A call whose caller hums all the time, until the service hangs up or the block ends."""
        async with self.phone.call() as call:
            humming = asyncio.create_task(hum(call))
            try:
                yield call.call_sid
            finally:
                humming.cancel()
                await asyncio.wait({humming})

    @contextlib.asynccontextmanager
    async def chat(self) -> AsyncIterator[CallSid]:
        """The same as a chat."""
        url = f"ws://127.0.0.1:{self.phone.port}/api/chat?format=pcm"
        async with connect(url, compression=None, proxy=None) as socket:
            humming = asyncio.create_task(hum_to(socket))
            try:
                yield self.service.manager.calls[0].session.record.call_sid
            finally:
                humming.cancel()
                await asyncio.wait({humming})


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
        yield Running(one.service, one.phone)


@contextlib.asynccontextmanager
async def evil_site() -> AsyncIterator[str]:
    """A site of somebody else's with an empty page.

    It is on this machine too, for newer browsers do not let a page of the internet reach this machine at all.
    """

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield f"http://{EVIL}:{sock.getsockname()[1]}/"
    finally:
        await runner.cleanup()
