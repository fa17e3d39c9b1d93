"""Who is called: each side a name and a way to run its server for a while, in a process of its own."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from app.cli.bench.line import LOOPBACK
from app.cli.service_process import AUTH_TOKEN, ServiceFailed, ServiceProcess, start_service

HOST = "127.0.0.1"
PROGRAMS = Path(__file__).parent / "servers"
BARE_PROGRAM = PROGRAMS / "bare_server.py"
BARE_SERVER, LINE_TEST, PIPECAT = "bare server", "line test", "Pipecat"
LISTENS_WITHIN_S = 120.0
STOPS_WITHIN_S = 5.0
LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Side:
    """One server to call; `serve` takes the number of calls to make room for and a file for what it logs."""

    name: str
    serve: Callable[[int, Path], AbstractAsyncContextManager[ServiceProcess]]
    auth_token: str | None = None


def line_test() -> Side:
    """Return this service with nothing between the caller and himself."""
    return Side(LINE_TEST, lambda calls, log: start_service({**LOOPBACK, "MAX_CALLS": str(calls)}, log), AUTH_TOKEN)


def bare_server() -> Side:
    """Return the floor of the method."""
    return Side(BARE_SERVER, lambda _, log: _program(lambda port: [sys.executable, str(BARE_PROGRAM), str(port)], log))


def pipecat(python: Path) -> Side:
    """Return Pipecat as installed for that interpreter, behind the web server that the line test has, set up alike."""
    return Side(PIPECAT, lambda _, log: _program(lambda port: [str(python), *_UVICORN, "--port", str(port)], log))


_UVICORN = (
    *("-m", "uvicorn", "--app-dir", str(PROGRAMS), "pipecat_server:app", "--host", HOST),
    *("--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--no-access-log"),
)


@contextlib.asynccontextmanager
async def _program(command: Callable[[int], list[str]], log: Path) -> AsyncIterator[ServiceProcess]:
    """Run a server on a free port until the block ends. Raises ServiceFailed if it does not listen."""
    port = _free_port()
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(*command(port), stdout=log_file, stderr=log_file)
    try:
        await _wait_listening(port, process, log)
        yield ServiceProcess(f"http://{HOST}:{port}", process.pid)
    finally:
        await _stop(process)


async def _wait_listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    ending = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(LISTENS_WITHIN_S):
            while not await _is_listening(port):
                await asyncio.wait([ending], timeout=LOOK_AGAIN_S)
                if ending.done():
                    raise ServiceFailed(_last_line(log))
    except TimeoutError as error:
        raise ServiceFailed(_last_line(log)) from error
    finally:
        ending.cancel()


async def _is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOPS_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it never listened"
