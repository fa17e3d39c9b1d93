import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes.ring import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, Phone, closing_code

ROOT = str(Path(__file__).parent.parent.parent)
LOOPBACK = {"ENGINE": "loopback", "CODEC": "loopback"}
GOOD = {**LOOPBACK, "PUBLIC_URL": PUBLIC, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_ACCOUNT_SID": ACCOUNT}


@dataclass
class Program:
    """`moshi-bridge serve` as a process, with what it writes to standard error."""

    process: asyncio.subprocess.Process

    async def until(self, text: str) -> None:
        """Read standard error up to the line that holds this."""
        assert self.process.stderr
        async with asyncio.timeout(PATIENCE_S):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"the program ended without a word of {text!r}"

    async def end(self) -> tuple[int, str]:
        """Return the exit status, and what was still written, once the program has ended."""
        async with asyncio.timeout(PATIENCE_S):
            _, words = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, words.decode()

    def everybody(self) -> list[int]:
        """Return the program's process and those of its workers."""
        family = psutil.Process(self.process.pid)
        return [family.pid, *(child.pid for child in family.children(recursive=True))]


@contextlib.asynccontextmanager
async def serve(folder: Path, **settings: str) -> AsyncIterator[Program]:
    """Start the program in an empty folder, with these settings alone."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve"),
        cwd=folder,
        env={**environment, "PYTHONPATH": ROOT, "DATABASE_URL": "off", **settings},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"PORT": "0"}, "PORT"),
        ({"MAX_CALLS": "none"}, "MAX_CALLS"),
        ({"CODEC": "loopback", "ENGINE": "mlx"}, "CODEC=loopback needs ENGINE=loopback"),
        ({"PUBLIC_URL": "phone.example.com"}, "PUBLIC_URL"),
        ({**LOOPBACK, "PUBLIC_URL": PUBLIC}, "TWILIO_AUTH_TOKEN is not set"),
        ({**LOOPBACK, "HOST": "0.0.0.0"}, "TWILIO_AUTH_TOKEN is not set"),
        ({**LOOPBACK, "HOST": "host.invalid", "TWILIO_AUTH_TOKEN": TOKEN}, "HOST=host.invalid"),
    ],
    ids=["port", "calls", "codec", "url", "open to strangers", "open to the network", "no such host"],
)
async def test_settings_that_cannot_be_served_are_told_in_one_line(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    async with serve(tmp_path, **settings) as program:
        status, words = await program.end()
    assert status == 2
    assert named in words
    assert len(words.splitlines()) == 1, words


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with serve(tmp_path, **LOOPBACK, PORT=port) as program:
            status, words = await program.end()
    assert status == 2
    assert f"PORT={port}" in words
    assert len(words.splitlines()) == 1, words


async def test_a_checkpoint_that_is_not_there_is_named_and_leaves_no_process(tmp_path: Path) -> None:
    async with serve(tmp_path, MOSHI_CHECKPOINT=str(tmp_path / "nowhere"), PORT=str(free_port())) as program:
        status, words = await program.end()
    assert status == 2
    assert f"moshi-bridge: MOSHI_CHECKPOINT={tmp_path / 'nowhere'}" in words.splitlines()[-1]
    assert "Traceback" not in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_in_mid_call_ends_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    async with (
        serve(tmp_path, **GOOD, PORT=str(port)) as program,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await program.until("ready for calls")
        pids = program.everybody()
        assert len(pids) == 1 + 3
        async with Phone(port, http).call() as call:
            await call.speaks(2)
            os.kill(program.process.pid, number)
            assert await closing_code(call.socket) in (1000, 1012)
            status, words = await program.end()
    assert status == 0
    assert "ended: the service is stopping" in words
    assert "Traceback" not in words
    await all_gone(pids)


async def test_a_signal_during_the_start_ends_everything_in_order(tmp_path: Path) -> None:
    async with serve(tmp_path, **GOOD, PORT=str(free_port())) as program:
        await program.until("listening on")
        program.process.terminate()
        status, words = await program.end()
    assert "Traceback" not in words
    assert status in (0, -signal.SIGTERM)


async def test_a_killed_service_leaves_no_orphan(tmp_path: Path) -> None:
    async with serve(tmp_path, **GOOD, PORT=str(free_port())) as program:
        await program.until("ready for calls")
        pids = program.everybody()
        program.process.kill()
        await program.end()
    await all_gone(pids)


async def test_a_file_of_settings_in_its_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=0\n")
    async with serve(tmp_path, **LOOPBACK) as program:
        status, words = await program.end()
    assert (status, words.split(":")[:2]) == (2, ["moshi-bridge", " PORT"])
