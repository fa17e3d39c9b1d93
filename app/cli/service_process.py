"""A server in a process of its own, on a free port: demo and benches place their simulated calls to it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from app.server.cloudflared import free_port as free_port
from app.setting_sources import PREFIX

ACCOUNT_SID = "AC" + "0" * 32
AUTH_TOKEN = "5" * 32
"""Accepted by these services only."""
HOST = "127.0.0.1"
READY_WITHIN_S = 300.0
STOP_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.1
LOOPBACK = {"ENGINE": "loopback", "CODEC": "loopback"}
"""The line test: no model, the caller hears their own echo."""
SETTINGS = {
    "HOST": HOST,
    "LOG_FORMAT": "text",
    "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
    "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
    "ALLOWED_CALLERS": "*",
    "BLOCKED_CALLERS": "nobody",
    "CALLS_PER_NUMBER_PER_HOUR": "0",
    "IDLE_SECONDS": "0",
    "DRAIN_SECONDS": "0",
    "RECORD_CALLS": "asked",
    "TRACES_ENDPOINT": "off",
    "DATABASE_URL": "off",
    "RECORDINGS_DIR": "off",
    "PERSONAS_DIR": "",
    "PERSONA": "",
    "TUNNEL": "false",
    "SET_NUMBER": "false",
    "TRANSCRIBE": "off",
    "WEBHOOK_URL": "",
    "NATS_URL": "",
    "NODE_URL": "",
}
"""Overrides what `.env` says for real calls."""


class ServiceFailed(Exception):
    """The server did not start, or a call to it failed; the message is one line, often the server's last."""


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    base_url: str
    process_id: int

    async def record(self, call_sid: str) -> dict[str, Any]:
        record: dict[str, Any] = await self.get(f"/api/calls/{call_sid}")
        return record

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession(self.base_url, raise_for_status=True) as client, client.get(path) as answer:
            return await answer.json()

    async def post(self, path: str, **query: object) -> Any:
        async with (
            aiohttp.ClientSession(self.base_url, raise_for_status=True) as client,
            client.post(path, params={name: str(value) for name, value in query.items()}) as answer,
        ):
            return await answer.json()

    def cpu_s(self) -> dict[str, float]:
        """Return the processor seconds used so far by the service and each of its workers."""
        service = psutil.Process(self.process_id)
        workers = {f"worker {worker.pid}": worker for worker in service.children(recursive=True)}
        return {name: sum(process.cpu_times()[:2]) for name, process in {"app": service, **workers}.items()}


def start_service(
    environment: Mapping[str, str], log: Path, port: int | None = None
) -> AbstractAsyncContextManager[ServiceProcess]:
    """Run `moshi-bridge serve` with these settings until the block ends, on a free port unless one is given.

    Raises ServiceFailed.
    """
    port = port or free_port()
    given = {**SETTINGS, "PORT": str(port), "PUBLIC_URL": f"http://{HOST}:{port}", **environment}
    prefixed = {PREFIX + name: value for name, value in given.items()}  # wins over `.env` and the shell
    return start_server([sys.executable, "-m", "app", "serve"], port, "/readyz", log, prefixed)


@contextlib.asynccontextmanager
async def start_server(
    command: Sequence[str], port: int, ready_path: str, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ServiceProcess]:
    """Run a command until the block ends, once `ready_path` answers 200 at the port. Raises ServiceFailed."""
    base_url = f"http://{HOST}:{port}"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **(environment or {})}, stdout=output, stderr=output
        )
    try:
        await _wait_ready(base_url + ready_path, process, log)
        yield ServiceProcess(base_url, process.pid)
    finally:
        await _stop(process)


async def _wait_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN_S), aiohttp.ClientSession() as client:
            while not await _is_ready(client, url):
                if process.returncode is not None:
                    raise ServiceFailed(_last_line(log))
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError as error:
        raise ServiceFailed(f"not ready after {READY_WITHIN_S:.0f} s: {_last_line(log)}") from error


async def _is_ready(client: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with client.get(url) as answer:
            return answer.status == HTTPStatus.OK
    except aiohttp.ClientConnectionError:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("moshi-bridge: ") if lines else "the log is empty"
