"""Those who mean no call: a process of its own, so that they do not hold up the simulated callers.

`python -m app.bench.strangers PORT SILENT NOISY PAUSE_S` keeps so many connections that say nothing and so many that
send garbage of three kinds (bytes that are no HTTP, upgrades that nobody signed, headers a byte at a time), each made
anew `PAUSE_S` after the service has closed it; at first all come at once. On SIGTERM it prints what it counted as one
line of JSON.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

SLOW_BYTE_S = 0.1
NICE = 19

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hold the line."""


async def send_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what is no HTTP."""
    writer.write(secrets.token_bytes(2_000))


async def ask_unsigned(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask for a media socket as Twilio does, but for the signature."""
    path = f"/twilio/media/{secrets.token_urlsafe(24)}"
    lines = (
        *(f"GET {path} HTTP/1.1", "Host: phone.example.com", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    )
    writer.write("\r\n".join((*lines, "", "")).encode())


async def send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin a request and never end it."""
    writer.write(b"POST /twilio/voice HTTP/1.1\r\nHost: phone.example.com\r\nX-Slow: ")
    while not reader.at_eof():
        writer.write(b"x")
        await asyncio.sleep(SLOW_BYTE_S)


NOISY: tuple[Play, ...] = (send_bytes, ask_unsigned, send_slowly)


async def keep_at_it(port: int, play: Play, pause_s: float, counts: Counter[str]) -> None:
    """Connect, play, wait until the service closes the connection, and again, until cancelled."""
    while True:
        counts["tried"] += 1
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            counts["connected"] += 1
            counts["open"] += 1
            try:
                await _until_closed(play, reader, writer)
            finally:
                counts["open"] -= 1
                writer.transport.abort()
        await asyncio.sleep(pause_s)


async def _until_closed(play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reading = asyncio.create_task(reader.read())
    playing = asyncio.create_task(_play(play, reader, writer))
    try:
        await asyncio.wait({reading})
        reading.exception()
    finally:
        reading.cancel()
        playing.cancel()


async def _play(play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await play(reader, writer)


async def besiege(port: int, silent: int, noisy: int, pause_s: float) -> Counter[str]:
    """Keep at it until SIGTERM; return what was counted: `tried`, `connected`, and what is `open` in the end."""
    counts: Counter[str] = Counter()
    plays = [say_nothing] * silent + [NOISY[number % len(NOISY)] for number in range(noisy)]
    strangers = [asyncio.create_task(keep_at_it(port, play, pause_s, counts)) for play in plays]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    told = Counter(counts)
    for stranger in strangers:
        stranger.cancel()
    await asyncio.gather(*strangers, return_exceptions=True)
    return told


def main(port: str, silent: str, noisy: str, pause_s: str) -> None:
    """Run until SIGTERM; the service goes first where both want a core, for true strangers have their own."""
    os.nice(NICE)
    print(json.dumps(asyncio.run(besiege(int(port), int(silent), int(noisy), float(pause_s)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
