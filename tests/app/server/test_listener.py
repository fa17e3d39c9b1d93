"""The web server over a small application, on sockets of the system's."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.types import Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from app.server.listener import DESCRIPTORS, KEEP_ALIVE_S, WebServer

GUARD_S = 30.0
"""Against a test that would wait for ever; nothing is measured by it."""
PROXIES_KEEP_S = {"cloudflared": 90, "Caddy": 120, "nginx": 60, "AWS ALB": 60}
"""How long they keep an idle connection to a server, from their documentation."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo on a socket, deny the one at /deny, answer a request."""
    match scope["type"]:
        case "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        case "websocket" if scope["path"] == "/deny":
            await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"retry-after", b"60")]})
            await send({"type": "websocket.http.response.body", "body": b"later"})
        case "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        case _:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(on_start: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
    """Serve the application; give the port."""
    server = WebServer(application, on_start)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        task = asyncio.create_task(server.serve(sock))
        try:
            yield sock.getsockname()[1]
        finally:
            server.stop()
            async with asyncio.timeout(GUARD_S):
                await task


class Client:
    """A WebSocket client that answers no pings."""

    def __init__(self, port: int, path: str = "/") -> None:
        self._port = port
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{path}"))
        self._frames: list[Frame] = []

    async def open(self) -> int:
        """Ask for the upgrade; return the status of the answer."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._protocol.send_request(self._protocol.connect())
        self._writer.write(b"".join(self._protocol.data_to_send()))
        async with asyncio.timeout(GUARD_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        self._protocol.receive_data(head)
        self._protocol.events_received()
        return int(head.split()[1])

    async def next(self, opcode: Opcode) -> bytes:
        """Read up to the next frame of this kind."""
        async with asyncio.timeout(GUARD_S):
            while True:
                while self._frames:
                    if (frame := self._frames.pop(0)).opcode is opcode:
                        return bytes(frame.data)
                data = await self._reader.read(4_096)
                assert data, "the server has closed the socket"
                self._protocol.receive_data(data)
                self._frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
                self._protocol.data_to_send()  # the pongs, which are not sent

    def send(self, text: str) -> None:
        self._protocol.send_text(text.encode())
        self._writer.write(self._protocol.data_to_send()[-1])

    def close(self) -> None:
        self._writer.close()


async def test_a_peer_that_answers_no_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.listener.PING_EVERY_S", 0.02)
    async with serving() as port:
        client = Client(port)
        assert await client.open() == 101
        for _ in range(10):
            await client.next(Opcode.PING)
        client.send("still here")
        assert await client.next(Opcode.TEXT) == b"still here"
        client.close()


async def test_a_denied_upgrade_has_its_status_and_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as port:
        client = Client(port, "/deny")
        assert await client.open() == 429
        client.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_when_it_has_begun_it_says_so_before_it_serves() -> None:
    begun = asyncio.Event()
    async with serving(begun.set), asyncio.timeout(GUARD_S):
        await begun.wait()


@pytest.mark.parametrize("proxy", PROXIES_KEEP_S)
def test_idle_connections_live_longer_than_the_proxies(proxy: str) -> None:
    assert WebServer(application, lambda: None).config.timeout_keep_alive == KEEP_ALIVE_S
    assert PROXIES_KEEP_S[proxy] < KEEP_ALIVE_S


@pytest.mark.parametrize("soft", [128, 256])
def test_a_process_that_may_have_few_descriptors_gives_itself_more(soft: int) -> None:
    program = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard))\n"
        "from app.server.listener import raise_descriptor_limit; raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    limit, hard = map(int, done.stdout.split())
    assert limit == (DESCRIPTORS if hard < 0 else min(DESCRIPTORS, hard))
