"""A stand-in for cloudflared: its command line, its metrics port, its log, and a "public" port on this machine.

What comes to the public port is carried to `--url` byte by byte. What goes wrong is chosen by the environment:

STANDIN_DIARY      a file to which each happening is added, one JSON object a line
STANDIN_REFUSE     so many first connections to the public port are cut, as if its name were not known yet
STANDIN_UNREADY    so many first questions for /ready are answered 503
STANDIN_FLOOD      so many bytes are written to standard error before anything else, in one line
STANDIN_STUBBORN   SIGTERM is not heard
STANDIN_FAIL       these are its last words, at once

As the real one, it reads a configuration file: that of --config or TUNNEL_CONFIG, else the first in the home folder's
`FOLDERS` and the system's (below STANDIN_ROOT). One that has an ingress takes over a quick tunnel, which then leads
elsewhere.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from http import HTTPStatus
from pathlib import Path

FOLDERS = (".cloudflared", ".cloudflare-warp", "cloudflare-warp")
SYSTEM_FOLDERS = ("etc/cloudflared", "usr/local/etc/cloudflared")
FILES = ("config.yml", "config.yaml")
VERSION = "cloudflared version 2025.9.1 (built 2025-09-22-1400 UTC)"


class Standin:
    """One run."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.refuse = int(os.environ.get("STANDIN_REFUSE", "0"))
        self.unready = int(os.environ.get("STANDIN_UNREADY", "0"))
        self.hostname = ""

    def option(self, name: str) -> str | None:
        """Return the value after an option of the command line."""
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else None

    def note(self, happening: str, **facts: object) -> None:
        """Add a line to the diary."""
        if diary := os.environ.get("STANDIN_DIARY"):
            with Path(diary).open("a") as file:
                file.write(json.dumps({"happening": happening, "pid": os.getpid(), **facts}) + "\n")

    def taken_over(self) -> bool:
        """Tell whether a configuration file leads the tunnel elsewhere."""
        given = self.option("--config") or os.environ.get("TUNNEL_CONFIG")
        root = Path(os.environ.get("STANDIN_ROOT", "/"))
        folders = [*(Path.home() / folder for folder in FOLDERS), *(root / folder for folder in SYSTEM_FOLDERS)]
        usual = [folder / name for folder in folders for name in FILES]
        found = [Path(given)] if given else [path for path in usual if path.exists()]
        if found and not (text := found[0].read_text()):
            print(f"2026-01-01T00:00:00Z ERR Configuration file {found[0]} was empty", file=sys.stderr)
        return bool(found) and "ingress" in text

    async def run(self) -> None:
        """Serve until a signal."""
        self.note("start", arguments=self.arguments, environment=sorted(os.environ), token=token())
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
                self.note("asked", path=path)
                status, answer = self.metrics(path)
                body = json.dumps(answer).encode()
                first = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(first.encode() + body)
                await writer.drain()
        writer.close()

    def metrics(self, path: str) -> tuple[HTTPStatus, dict[str, object]]:
        """Return the answer for one path."""
        if path == "/quicktunnel":
            leads_here = self.option("--url") and not self.taken_over()
            return HTTPStatus.OK, {"hostname": self.hostname if leads_here else ""}
        self.unready -= 1
        ready = self.unready < 0
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return status, {"status": status.value, "readyConnections": int(ready), "connectorId": "0"}

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to the service and back."""
        self.refuse -= 1
        self.note("refused" if self.refuse >= 0 else "carried")
        if self.refuse >= 0:
            writer.transport.abort()
            return
        host, port = (self.option("--url") or "").removeprefix("http://").split(":")
        service_reader, service_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, service_writer), pump(service_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


def token() -> str:
    """Return the token that was handed over."""
    return os.environ.get("TUNNEL_TOKEN", "")


def main() -> None:
    """Do what the command line says."""
    if "--version" in sys.argv:
        print(VERSION)
        return
    if flood := int(os.environ.get("STANDIN_FLOOD", "0")):
        os.write(2, b"x" * flood + b"\n")
    if words := os.environ.get("STANDIN_FAIL"):
        sys.exit(f"2026-01-01T00:00:00Z ERR {words} token={token()}")
    if os.environ.get("STANDIN_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(Standin(sys.argv[1:]).run())


if __name__ == "__main__":
    main()
