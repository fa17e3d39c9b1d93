"""The door of a server of one small application, on sockets of the system's."""

import asyncio
import contextlib
import errno
import itertools
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from websockets.asyncio.client import connect

from app.web.door import DESCRIPTORS, MOST_VISITORS, REQUEST_WITHIN_S, Door

GUARD_S = 30.0
"""Against a test that would wait for ever; nothing is measured by it."""
SOON_S = 0.05
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
SLOW_BODY = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhalf"


@dataclass
class House:
    """A server behind a door, and its callers."""

    door: Door
    port: int
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with its body's length, echo on a socket, once `answers` is set."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] != "websocket.disconnect":
                if message["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"]})
            return
        while (await receive()).get("more_body"):
            pass
        await self.answers.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def enter(self, words: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect and say this. Who comes first is let in first."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(words)
        return reader, writer


@contextlib.asynccontextmanager
async def house(most: int = MOST_VISITORS, request_within_s: float = REQUEST_WITHIN_S) -> AsyncIterator[House]:
    door = Door(most, request_within_s)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        built = House(door, sock.getsockname()[1])
        built.answers.set()
        config = uvicorn.Config(built, lifespan="off", ws="websockets-sansio", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        accepting = asyncio.create_task(door.attend(sock, server))
        try:
            yield built
        finally:
            accepting.cancel()
            await asyncio.wait({accepting})
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Return what the server still said before it closed."""
    async with asyncio.timeout(GUARD_S):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
        return b""


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(GUARD_S):
        return await reader.readuntil(b"ok")


@pytest.mark.parametrize(
    "words",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nX-Slow: xx", SLOW_BODY],
    ids=["nothing", "half a line", "no end", "half a body"],
)
async def test_who_does_not_ask_in_time_is_shown_out(words: bytes) -> None:
    async with house(request_within_s=SOON_S) as built:
        reader, writer = await built.enter(words)
        assert await closed(reader) == b""
        assert len(built.door.visitors) == 0
        writer.close()


async def test_who_asks_a_first_time_must_ask_the_next_time_in_time_too() -> None:
    async with house(request_within_s=SOON_S) as built:
        reader, writer = await built.enter(REQUEST)
        await answer(reader)
        writer.write(b"GET /")
        assert await closed(reader) == b""
        writer.close()


async def test_who_has_asked_is_answered_however_long_it_takes() -> None:
    async with house(request_within_s=SOON_S) as built:
        built.answers.clear()
        reader, writer = await built.enter(REQUEST)
        stranger, other = await built.enter()
        await closed(stranger)
        built.answers.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.close()
        other.close()


async def test_when_too_many_wait_the_one_that_has_waited_longest_goes_and_the_newest_is_answered() -> None:
    async with house(most=3) as built:
        waiting = [await built.enter() for _ in range(3)]
        newest, writer = await built.enter(REQUEST)
        assert await closed(waiting[0][0]) == b""
        assert (await answer(newest)).startswith(b"HTTP/1.1 200")
        assert [reader.at_eof() for reader, _ in waiting] == [True, False, False]
        for _, one in [*waiting, (newest, writer)]:
            one.close()


async def test_who_was_answered_is_behind_those_who_never_asked() -> None:
    async with house(most=2) as built:
        useful, first = await built.enter(REQUEST)
        silent, second = await built.enter()
        await answer(useful)
        first.write(REQUEST)
        await answer(useful)
        _, third = await built.enter()
        assert await closed(silent) == b""
        assert not useful.at_eof()
        for writer in (first, second, third):
            writer.close()


async def test_a_socket_is_no_visitor_and_stays() -> None:
    async with house(most=1, request_within_s=SOON_S) as built, connect(built.socket_url, proxy=None) as talk:
        assert len(built.door.visitors) == 0
        for _ in range(3):
            reader, writer = await built.enter()
            await closed(reader)
            writer.close()
        await talk.send("still here")
        async with asyncio.timeout(GUARD_S):
            assert await talk.recv() == "still here"


async def test_garbage_is_answered_once_and_closed() -> None:
    async with house() as built:
        reader, writer = await built.enter(b"\x16\x03\x01" + bytes(500))
        assert (await closed(reader)).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_between_two_who_come_in_everybody_else_has_his_turn() -> None:
    """Fifty come at once; what counts is how many are let in between two turns of another task."""
    async with house() as built:
        crowd = [socket.create_connection(("127.0.0.1", built.port)) for _ in range(50)]
        seen = [0]
        async with asyncio.timeout(GUARD_S):
            while seen[-1] < 50:
                await asyncio.sleep(0)
                seen.append(len(built.door.visitors))
        assert max(after - before for before, after in itertools.pairwise(seen)) == 1
        for one in crowd:
            one.close()


async def test_when_all_speak_at_once_everybody_else_has_his_turn_between_any_two() -> None:
    async with house() as built:
        crowd = [socket.create_connection(("127.0.0.1", built.port)) for _ in range(50)]
        async with asyncio.timeout(GUARD_S):
            while len(built.door.visitors) < 50:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)
            for one in crowd:
                one.send(b"\x16\x03\x01 no HTTP\r\n\r\n")
            seen = [50]
            while seen[-1] > 0:
                await asyncio.sleep(0)
                seen.append(len(built.door.visitors))
        assert max(before - after for before, after in itertools.pairwise(seen)) == 1
        for one in crowd:
            one.close()


async def test_who_says_much_is_heard_to_the_end() -> None:
    body = bytes(300_000)
    async with house() as built:
        reader, writer = await built.enter(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 300000\r\n\r\n" + body)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.write(REQUEST + REQUEST)
        await answer(reader)
        await answer(reader)
        writer.close()


async def test_who_cannot_be_heard_is_dropped_and_the_next_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    take = H11Protocol.data_received

    def fail(protocol: H11Protocol, data: bytes) -> None:
        take(protocol, data if data != b"poison" else 1 / 0)  # type: ignore[arg-type]

    monkeypatch.setattr(H11Protocol, "data_received", fail)
    async with house() as built:
        poison, first = await built.enter(b"poison")
        assert await closed(poison) == b""
        reader, second = await built.enter(REQUEST)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        first.close()
        second.close()


async def test_a_system_without_descriptors_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    accept, refusals = loop.sock_accept, [OSError(errno.EMFILE, "too many open files")]

    async def scarce(sock: socket.socket) -> tuple[socket.socket, object]:
        if refusals:
            raise refusals.pop()
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", scarce)
    async with house() as built:
        reader, writer = await built.enter(REQUEST)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert refusals == []


def test_a_process_that_may_have_few_descriptors_gives_itself_more() -> None:
    program = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))\n"
        "from app.web.door import raise_descriptor_limit; raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    soft, hard = map(int, done.stdout.split())
    assert soft == (DESCRIPTORS if hard < 0 else min(DESCRIPTORS, hard))
