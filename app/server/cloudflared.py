"""cloudflared as a child process.

A tunnel's token is passed in the environment: every user of the machine can read command lines. cloudflared reads its
options from `TUNNEL_…` variables too, so those of the shell are removed, and so are our settings, which hold Twilio's
token. It reads the first configuration file in any of five folders, and one with an ingress takes over a quick tunnel:
so a quick tunnel is given an empty file. A named tunnel uses the operator's.

The URL is read from its metrics port, never from its log: there the same pattern matches `api.trycloudflare.com` in
error messages. Its log is drained, because a full pipe would block it. It has a session of its own, so that Ctrl-C at
the terminal lets calls end first. A shell ends it when our end of its standard input closes, however we die.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Self

import aiohttp

from app.config import NAMES, Settings, SettingsError, is_loopback
from app.server.tunnel_state import TunnelStatus
from app.setting_sources import PREFIX

PROGRAM = "cloudflared"
CREDENTIALS = Path("~/.cloudflared")
NO_CONFIG = "/dev/null"
HOW_TO_INSTALL = (
    "brew install cloudflared (Mac), or the package for your system from "
    "https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/downloads/"
)
_HOSTNAME = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")

log = logging.getLogger(__name__)

WRAPPER = (
    'exec 3<&0; "$@" 3<&- </dev/null & tunnel=$!; '
    '(read -r _ <&3; kill "$tunnel") >/dev/null 2>&1 & watcher=$!; '
    'exec 3<&-; wait "$tunnel"; status=$?; kill "$watcher" 2>/dev/null; exit "$status"'
)
ANSWER_WITHIN_S = 2.0
STOP_WITHIN_S = 5.0
READ_BYTES = 65_536
LINE_BYTES = 1_000
LINES_KEPT = 20
ERROR_MARK = " ERR "
EMPTY_CONFIG = f"{NO_CONFIG} was empty"
"""An error that cloudflared logs about the empty configuration of a quick tunnel."""


class Cloudflared:
    """One run of cloudflared."""

    def __init__(self, process: asyncio.subprocess.Process, metrics_port: int, url: str | None, secret: str) -> None:
        self._process, self._url, self._secret = process, url, secret
        self._metrics = f"http://127.0.0.1:{metrics_port}"
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._draining = asyncio.create_task(self._drain())

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], metrics_port: int, url: str | None, secret: str
    ) -> Self:
        """Start it. `url` is that of a named tunnel, None for a quick one; `secret` is hidden in log lines."""
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", WRAPPER, "cloudflared", *command),
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return cls(process, metrics_port, url, secret)

    async def status(self) -> TunnelStatus:
        """Read the metrics port; without an answer there is no URL and no connection."""
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)) as client:
                async with client.get(f"{self._metrics}/ready") as answer:
                    connected = answer.status == HTTPStatus.OK
                return TunnelStatus(self._url or await self._quick_url(client), connected)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return TunnelStatus(None, connected=False)

    async def exited_within(self, seconds: float) -> bool:
        await asyncio.wait({self._draining}, timeout=seconds)
        return self._draining.done()

    @property
    def last_error(self) -> str:
        errors = [line for line in self._lines if ERROR_MARK in line]
        return (errors or list(self._lines) or ["no output"])[-1]

    async def stop(self) -> None:
        """End it and its children; return when they are gone."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_WITHIN_S)
        except TimeoutError:
            log.warning("cloudflared does not end by itself and is killed")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._draining.cancel()
            await asyncio.wait({self._draining})

    async def _quick_url(self, client: aiohttp.ClientSession) -> str | None:
        async with client.get(f"{self._metrics}/quicktunnel") as answer:
            try:
                body = await answer.json(content_type=None)
            except ValueError:
                return None
        return url_of(body.get("hostname")) if isinstance(body, dict) else None

    async def _drain(self) -> None:
        """Read its log to the end; a line may have any length."""
        assert self._process.stderr
        rest = b""
        while piece := await self._process.stderr.read(READ_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[:LINE_BYTES]
            for line in lines:
                self._log(line)
        self._log(rest)
        await self._process.wait()

    def _log(self, raw: bytes) -> None:
        line = raw[:LINE_BYTES].decode(errors="replace").strip()
        if self._secret:
            line = line.replace(self._secret, "…")
        if line and not line.endswith(EMPTY_CONFIG):
            self._lines.append(line)
            log.debug("cloudflared: %s", line)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def find_cloudflared() -> str:
    """Return the path of cloudflared. Raises SettingsError that says how to install it."""
    if found := shutil.which(PROGRAM):
        return found
    raise SettingsError(f"cloudflared is not installed, and --tunnel needs it: {HOW_TO_INSTALL}")


def tunnel_command(settings: Settings, program: str, metrics_port: int) -> list[str]:
    common, url = ["--no-autoupdate", "--metrics", f"127.0.0.1:{metrics_port}"], settings.server.local_url
    if settings.tunnel.token:
        return [program, "tunnel", *common, "run"]
    if settings.tunnel.name:
        return [program, "tunnel", *common, "run", "--url", url, settings.tunnel.name]
    return [program, "tunnel", "--config", NO_CONFIG, "--url", url, *common]


def tunnel_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without our settings, with the tunnel's token."""
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in NAMES and not name.upper().startswith((PREFIX, "TUNNEL_"))
    }
    return {**kept, "TUNNEL_TOKEN": settings.tunnel.token} if settings.tunnel.token else kept


def url_of(hostname: object) -> str | None:
    """Return the public URL of a tunnel's host name, None if it is no host name. A loopback host has no TLS."""
    parts = _HOSTNAME.fullmatch(hostname) if isinstance(hostname, str) else None
    if not parts or int(parts["port"] or 0) > 65_535:
        return None
    return f"{'http' if is_loopback(parts['host']) else 'https'}://{hostname}"
