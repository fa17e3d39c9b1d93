"""A service of our own for a while, on a free port: what `demo` and `bench line` place their simulated calls to."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from app.setting_sources import PREFIX

ACCOUNT_SID = "AC" + "0" * 32
AUTH_TOKEN = "5" * 32
"""Nothing but this service accepts it."""
READY_WITHIN_S = 300.0
STOP_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.1


EVERYBODY = {
    "ALLOWED_CALLERS": "*",
    "BLOCKED_CALLERS": "nobody",
    "CALLS_PER_NUMBER_PER_HOUR": "0",
    "IDLE_SECONDS": "0",
    "DRAIN_SECONDS": "0",
    "RECORD_CALLS": "asked",
    "TRACES_ENDPOINT": "off",
}
"""Whatever `.env` says of real calls."""


class ServiceFailed(Exception):
    """The service did not come up; the message is its own last line."""


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A running service."""

    base_url: str
    process_id: int

    async def record(self, call_sid: str) -> dict[str, Any]:
        """Return what the service keeps of a call."""
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self.base_url}/api/calls/{call_sid}", raise_for_status=True) as answer,
        ):
            record: dict[str, Any] = await answer.json()
            return record

    async def loop_lag(self) -> dict[str, float]:
        """Return how long its event loop kept others waiting, in milliseconds."""
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self.base_url}/api/loop", raise_for_status=True) as answer,
        ):
            lag: dict[str, float] = await answer.json()
            return lag

    def cpu_s(self) -> dict[str, float]:
        """Return the processor seconds used so far by the service and each of its workers."""
        service = psutil.Process(self.process_id)
        workers = {f"worker {worker.pid}": worker for worker in service.children(recursive=True)}
        return {name: sum(process.cpu_times()[:2]) for name, process in {"app": service, **workers}.items()}


@contextlib.asynccontextmanager
async def start_service(environment: Mapping[str, str], log: Path) -> AsyncIterator[ServiceProcess]:
    """Run `moshi-bridge serve` with these settings until the block ends. Raises ServiceFailed."""
    port = _free_port()
    settings = {
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        **EVERYBODY,
        "DATABASE_URL": "off",
        "RECORDINGS_DIR": "off",
        "LOG_FORMAT": "text",
        **environment,
    }
    prefixed = {PREFIX + name: value for name, value in settings.items()}  # wins over `.env` and the shell
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "serve"), env={**os.environ, **prefixed}, stderr=log_file
        )
    running = ServiceProcess(f"http://127.0.0.1:{port}", process.pid)
    try:
        await _wait_ready(running, process, log)
        yield running
    finally:
        await _stop(process)


async def _wait_ready(running: ServiceProcess, process: asyncio.subprocess.Process, log: Path) -> None:
    ending = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(READY_WITHIN_S), aiohttp.ClientSession() as client:
            while not await _is_ready(client, running.base_url):
                await asyncio.wait([ending], timeout=LOOK_AGAIN_S)
                if ending.done():
                    raise ServiceFailed(_last_line(log))
    except TimeoutError as error:
        raise ServiceFailed(f"not ready after {READY_WITHIN_S:.0f} s: {_last_line(log)}") from error
    finally:
        ending.cancel()


async def _is_ready(client: aiohttp.ClientSession, base_url: str) -> bool:
    try:
        async with client.get(f"{base_url}/readyz") as answer:
            return answer.status == HTTPStatus.OK
    except aiohttp.ClientConnectionError:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
