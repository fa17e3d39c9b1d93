"""A fake of cloudflared: its command line, its metrics port, its log, and a "public" port on this machine.

What comes to the public port is carried to `--url` byte by byte. What goes wrong is chosen by the environment:

FAKE_EVENTS      a file to which each event is added, one JSON object a line
FAKE_REFUSE      so many first connections to the public port are cut, as if its name were not known yet
FAKE_UNREADY     so many first questions for /ready are answered 503
FAKE_FLOOD       so many bytes are written to standard error before anything else, in one line
FAKE_STUBBORN    SIGTERM is ignored
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from http import HTTPStatus
from pathlib import Path

TOKEN = os.environ.get("TUNNEL_TOKEN", "")
VERSION = "cloudflared version 2025.9.1 (built 2025-09-22-1400 UTC)"


class FakeCloudflared:
    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.refuse = int(os.environ.get("FAKE_REFUSE", "0"))
        self.unready = int(os.environ.get("FAKE_UNREADY", "0"))
        self.hostname = ""

    def option(self, name: str) -> str | None:
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else None

    def add_event(self, event: str, **fields: object) -> None:
        if events := os.environ.get("FAKE_EVENTS"):
            with Path(events).open("a") as file:
                file.write(json.dumps({"event": event, "pid": os.getpid(), **fields}) + "\n")

    async def run(self) -> None:
        self.add_event("start", arguments=self.arguments, environment=sorted(os.environ), token=TOKEN)
        public = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        self.hostname = f"127.0.0.1:{public.sockets[0].getsockname()[1]}"
        host, port = (self.option("--metrics") or "127.0.0.1:0").split(":")
        async with public, await asyncio.start_server(self.answer, host, int(port)) as metrics:
            await metrics.serve_forever()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question to the metrics port, as cloudflared does."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                self.add_event("asked", path=path)
                status, answer = self.metrics(path)
                body = json.dumps(answer).encode()
                first = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(first.encode() + body)
                await writer.drain()
        writer.close()

    def metrics(self, path: str) -> tuple[HTTPStatus, dict[str, object]]:
        if path == "/quicktunnel":
            return HTTPStatus.OK, {"hostname": self.hostname if self.option("--url") else ""}
        self.unready -= 1
        ready = self.unready < 0
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return status, {"status": status.value, "readyConnections": int(ready), "connectorId": "0"}

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.refuse -= 1
        self.add_event("refused" if self.refuse >= 0 else "carried")
        if self.refuse >= 0:
            writer.transport.abort()
            return
        host, port = (self.option("--url") or "").removeprefix("http://").split(":")
        service_reader, service_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, service_writer), pump(service_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


def main() -> None:
    if "--version" in sys.argv:
        print(VERSION)
        return
    if flood := int(os.environ.get("FAKE_FLOOD", "0")):
        os.write(2, b"x" * flood + b"\n")
    if os.environ.get("FAKE_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(FakeCloudflared(sys.argv[1:]).run())


if __name__ == "__main__":
    main()
