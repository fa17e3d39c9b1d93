"""The strangers themselves: a siege that besieges nothing would show nothing."""

import asyncio
import contextlib
import json
import socket
import sys
from collections import Counter

import pytest

from app.bench.strangers import NOISY, Play, ask_unsigned, keep_at_it, say_nothing, send_bytes, send_slowly

GUARD_S = 30.0


async def first_words(play: Play, enough: int) -> bytes:
    """Return the first so many bytes that a stranger says who plays this."""
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            said.put_nowait(await reader.readexactly(enough))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        stranger = asyncio.create_task(keep_at_it(port, play, 0.0, Counter()))
        async with asyncio.timeout(GUARD_S):
            words = await said.get()
        stranger.cancel()
        await asyncio.wait({stranger})
        return words


async def test_what_each_of_them_says() -> None:
    assert len(await first_words(send_bytes, 2_000)) == 2_000
    assert (await first_words(ask_unsigned, 20)).startswith(b"GET /twilio/media/")
    slow = await first_words(send_slowly, 70)
    assert slow.startswith(b"POST /twilio/voice")
    assert b"\r\n\r\n" not in slow


@pytest.mark.parametrize("play", [say_nothing, *NOISY], ids=lambda play: play.__name__)
async def test_each_of_them_comes_again_when_he_is_shown_out(play: Play) -> None:
    visits: asyncio.Queue[None] = asyncio.Queue()

    async def show_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.put_nowait(None)
        writer.transport.abort()

    counts: Counter[str] = Counter()
    async with await asyncio.start_server(show_out, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        stranger = asyncio.create_task(keep_at_it(port, play, 0.0, counts))
        async with asyncio.timeout(GUARD_S):
            for _ in range(3):
                await visits.get()
        stranger.cancel()
        await asyncio.wait({stranger})
    assert counts["connected"] >= 3
    assert counts["open"] == 0


async def test_a_siege_counts_what_it_did_when_it_is_told_to_stop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        command = (sys.executable, "-m", "app.bench.strangers", port, "2", "1", "1")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GUARD_S):
            connections = [(await loop.sock_accept(sock))[0] for _ in range(3)]
            process.terminate()
            told, _ = await process.communicate()
        for connection in connections:
            connection.close()
    assert json.loads(told)["tried"] == 3
