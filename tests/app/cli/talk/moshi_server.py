"""A small Moshi server, right or wrong in the ways in which Kyutai's, NVIDIA's and a broken one are.

It is clocked by its input, as they are: it sends back each packet of sound that it receives.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import sphn
from aiohttp import WSMessage, WSMsgType, web

from workers.messages import Pcm

Change = Callable[[int, bytes], Sequence[bytes]]
"""Make messages of the Ogg pages of a step and its number."""


def one_message(_: int, ogg: bytes) -> Sequence[bytes]:
    return [b"\x01" + ogg]


@dataclass
class MoshiServer:
    before: Sequence[bytes] = ()
    """Messages before the handshake."""
    handshake: bytes = b"\x00"
    change: Change = one_message
    needs: frozenset[str] = frozenset()
    """Parameters without which the connection dies."""
    deadly: frozenset[str] = frozenset()
    """Parameters that end the session."""
    status: int = 0
    """Refuse the upgrade with it."""
    answer: str = ""
    location: str = ""
    """Of a redirect."""
    ends_after: int | None = None
    """Steps."""
    code: int | None = 1000
    """Of the end; None breaks the connection."""
    reason: bytes = b""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    query: dict[str, str] = field(default_factory=dict)
    authorization: str = ""
    received: list[WSMessage] = field(default_factory=list)
    early: int = 0
    """Messages that came before the handshake was sent."""
    heard: list[Pcm] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.query, self.authorization = dict(request.query), request.headers.get("Authorization", "")
        if self.status:
            return web.Response(status=self.status, text=self.answer, headers={"Location": self.location})
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.connected.set()
        await self._talk(request, socket)
        return socket

    async def _talk(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        if not self.needs <= self.query.keys() or self.deadly & self.query.keys() or "" in self.query.values():
            await self._end(request, socket)
            return
        for early in self.before:
            await socket.send_bytes(early)
        await self._get_ready(socket)
        if socket.closed:
            return
        await socket.send_bytes(self.handshake)
        reader, writer = sphn.OpusStreamReader(24_000), sphn.OpusStreamWriter(24_000)
        for step in range(1 << 20):
            if self.ends_after is not None and step >= self.ends_after:
                await self._end(request, socket)
                return
            message = await socket.receive()
            self.received.append(message)
            if message.type != WSMsgType.BINARY or message.data[:1] != b"\x01":
                return
            samples = reader.append_bytes(message.data[1:])
            self.heard.append(samples)
            for out in self.change(step, writer.append_pcm(samples) if len(samples) else b""):
                await socket.send_bytes(out)

    async def _get_ready(self, socket: web.WebSocketResponse) -> None:
        """Wait for `ready`; count what comes meanwhile."""
        receive, ready = asyncio.create_task(socket.receive()), asyncio.create_task(self.ready.wait())
        await asyncio.wait({receive, ready}, return_when=asyncio.FIRST_COMPLETED)
        self.early += receive.done()
        for task in (receive, ready):
            task.cancel()
        await asyncio.gather(receive, ready, return_exceptions=True)

    async def _end(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        if self.code is not None:
            await socket.close(code=self.code, message=self.reason)
        elif request.transport:
            request.transport.abort()

    @property
    def heard_samples(self) -> Pcm:
        return np.concatenate([np.zeros(0, np.float32), *self.heard])


@asynccontextmanager
async def serving(server: MoshiServer, tls: ssl.SSLContext | None = None) -> AsyncIterator[MoshiServer]:
    """Serve on loopback; ready at once unless the test says otherwise."""
    app = web.Application()
    app.router.add_get("/api/chat", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
