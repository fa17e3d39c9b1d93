"""Lets connections in, one after the other, and shows out those that want nothing: strangers must not cost calls time.

Theory of operation. A stranger has three ways to spoil a call without a signature. He can come with many connections at
once: they wait in the system's queue, and one is taken at each turn of the event loop, so that between any two of them
every call's packets have their turn. He can send garbage on all of them at once: what visitors say is heard one after
the other, at each turn one, and whoever waits to be heard is not read on. And he can hold connections and say nothing,
or a byte now and then: a request must be complete `REQUEST_WITHIN_S` after its connection was made or its last answer
given, and when more than `MOST_VISITORS` connections wait, the one that has waited longest is dropped. So there is
always room for the next one, and Twilio, who asks as soon as he is connected, is never the one that has waited longest.

A connection that became a WebSocket is no visitor any more: the route that took it decides how long it may stay.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0
"""Twilio's requests are there within the time of a round trip."""
MOST_VISITORS = 1_024
RETRY_S = 0.05
"""How soon it is tried again when the system has no descriptor left."""
DESCRIPTORS = 4_096
"""Some systems give a process 256, fewer than the visitors and calls it may have."""


class Visitors:
    """The connections that are no WebSockets, those that have waited longest first; and what they say, in its order."""

    def __init__(self, most: int = MOST_VISITORS) -> None:
        self._most = most
        self._waiting: dict[Visitor, None] = {}
        self._said: asyncio.Queue[tuple[Visitor, bytes]] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, visitor: "Visitor") -> None:
        """Let one in, or put one that was answered behind the others; drop who has waited longest if there are many."""
        self._waiting.pop(visitor, None)
        self._waiting[visitor] = None
        if len(self._waiting) > self._most:
            next(iter(self._waiting)).drop()

    def remove(self, visitor: "Visitor") -> None:
        """Forget one that has left, or has become a WebSocket; twice does no harm."""
        self._waiting.pop(visitor, None)

    def queue(self, visitor: "Visitor", said: bytes) -> None:
        """Let one wait until it is heard. It must not say more before: so there is at most one entry of each."""
        self._said.put_nowait((visitor, said))

    async def hear(self) -> None:
        """Hear one after the other, one a turn of the event loop, until cancelled."""
        while True:
            visitor, said = await self._said.get()
            try:
                visitor.hear(said)
            except Exception:  # the event loop would end this connection alone, too
                log.exception("a visitor could not be heard")
                visitor.drop()
            await asyncio.sleep(0)


class Visitor(H11Protocol):
    """A connection that must ask something in time; see `uvicorn.protocols.http.h11_impl` for the rest."""

    def __init__(self, visitors: Visitors, request_within_s: float, **place: Any) -> None:
        super().__init__(**place)
        self._visitors = visitors
        self._request_within_s = request_within_s
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()
        self._visitors.queue(self, data)

    def hear(self, said: bytes) -> None:
        """Take what was said, now that it is this one's turn, and listen on."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if not self.flow.read_paused:
            self.transport.resume_reading()
        super().data_received(said)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._leave()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection without a word."""
        self._leave()
        self.transport.abort()

    def _wait(self) -> None:
        self._leave()
        self._deadline = self.loop.call_later(self._request_within_s, self._look)
        self._visitors.add(self)

    def _leave(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._visitors.remove(self)

    def _look(self) -> None:
        asked = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if not asked:
            self.drop()


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket whose refusal is its end: to uvicorn it looks like a route that forgot to answer, which it logs."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


class Door:
    """Accepts the connections of one listening socket for a uvicorn server."""

    def __init__(self, most: int = MOST_VISITORS, request_within_s: float = REQUEST_WITHIN_S) -> None:
        self.visitors = Visitors(most)
        self._request_within_s = request_within_s

    async def attend(self, sock: socket.socket, server: uvicorn.Server) -> None:
        """Take connections, and hear them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.visitors.hear())
            tasks.create_task(self._accept(sock, server))

    async def _accept(self, sock: socket.socket, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as error:  # no descriptor left, or the peer has gone already
                log.warning("a connection could not be taken: %s", error.strerror)
                await asyncio.sleep(RETRY_S)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not, here
            await loop.connect_accepted_socket(self._visitor(server), connection)

    def _visitor(self, server: uvicorn.Server) -> Callable[[], Visitor]:
        return lambda: Visitor(
            self.visitors,
            self._request_within_s,
            config=server.config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
        )


def raise_descriptor_limit() -> None:
    """Let this process have `DESCRIPTORS` files and sockets, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
