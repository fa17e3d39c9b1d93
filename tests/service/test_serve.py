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

from app.twilio.events import Stopped
from app.twilio.twiml import Reject
from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, Call, Phone, closing_code, new_call_sid

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


async def test_a_public_url_that_twilio_would_not_open_a_socket_to_is_warned_of(tmp_path: Path) -> None:
    async with serve(tmp_path, **{**GOOD, "PUBLIC_URL": "http://phone.example.com"}, PORT=str(free_port())) as program:
        await program.until("Twilio opens sockets over TLS only")


async def test_the_workers_are_given_no_secrets(tmp_path: Path) -> None:
    secrets = {
        "OPERATOR_TOKEN": "an-operators-secret",
        "TWILIO_AUTH_TOKEN_SECONDARY": "the-next",
        "DATABASE_URL": "off",
    }
    async with serve(tmp_path, **{**GOOD, **secrets}, PORT=str(free_port()), HF_HOME=str(tmp_path)) as program:
        await program.until("ready for calls")
        environments = [worker.environ() for worker in psutil.Process(program.process.pid).children()]
    assert not {*secrets, "TWILIO_AUTH_TOKEN", "TWILIO_ACCOUNT_SID"} & {name for one in environments for name in one}
    assert [one["HF_HOME"] for one in environments if "HF_HOME" in one] == [str(tmp_path)], "the engine's alone"


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


@contextlib.asynccontextmanager
async def in_mid_call(folder: Path, **settings: str) -> AsyncIterator[tuple[Program, Phone, Call]]:
    """Start the program and talk to it."""
    port = free_port()
    async with (
        serve(folder, **GOOD, PORT=str(port), MAX_CALLS="2", **settings) as program,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await program.until("ready for calls")
        async with Phone(port, http).call() as call:
            await call.speaks(2)
            yield program, Phone(port, http), call


async def test_at_a_sigterm_calls_may_go_on_and_when_the_last_has_ended_the_program_ends(tmp_path: Path) -> None:
    async with in_mid_call(tmp_path, DRAIN_SECONDS="600") as (program, phone, call):
        program.process.terminate()
        await program.until("draining: 1 on the line")
        readyz = await phone.http.get("/readyz")
        assert (readyz.status_code, readyz.json()["draining"], readyz.json()["calls"]) == (503, True, 1)
        assert await phone.ring(new_call_sid()) == (Reject("busy"),)
        await call.speaks(5)
        await call.socket.send(call.carrier.send(Stopped()))
        status, words = await program.end()
    assert status == 0
    assert "ended: caller hung up" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_second_signal_ends_the_calls_at_once(tmp_path: Path, second: signal.Signals) -> None:
    async with in_mid_call(tmp_path, DRAIN_SECONDS="600") as (program, _, call):
        program.process.terminate()
        await program.until("draining: 1 on the line")
        program.process.send_signal(second)
        assert await closing_code(call.socket) in (1000, 1012)
        status, words = await program.end()
    assert status == 0
    assert "ended: the service is stopping" in words


async def test_when_the_time_to_drain_is_over_the_calls_are_ended_in_order(tmp_path: Path) -> None:
    async with in_mid_call(tmp_path, DRAIN_SECONDS="1") as (program, _, call):
        program.process.terminate()
        assert await closing_code(call.socket) == 1000
        status, words = await program.end()
    assert status == 0
    assert "ended: the service is stopping" in words
    assert "Traceback" not in words


async def drain(folder: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    """Run `moshi-bridge drain`."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "app", "drain", *arguments),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent.parent), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_drain_command_waits_until_the_last_call_has_ended(tmp_path: Path) -> None:
    async with in_mid_call(tmp_path) as (program, phone, call):
        command = await drain(tmp_path, "--seconds", "600", PORT=str(phone.port))
        assert command.stdout
        async with asyncio.timeout(PATIENCE_S):
            assert await command.stdout.readline() == b"draining: 1 call, for at most 600 s\n"
        assert await phone.ring(new_call_sid()) == (Reject("busy"),)
        await call.speaks(5)
        await call.socket.send(call.carrier.send(Stopped()))
        async with asyncio.timeout(PATIENCE_S):
            rest, _ = await command.communicate()
        status, _ = await program.end()
    assert rest.endswith(b"stopped\n")
    assert (command.returncode, status) == (0, 0)


async def test_a_drain_without_a_limit_cuts_no_call(tmp_path: Path) -> None:
    """DRAIN_SECONDS is 0 unless set: that is about signals."""
    async with in_mid_call(tmp_path, MAX_CALL_SECONDS="1200") as (program, phone, call):
        command = await drain(tmp_path, "--no-wait", PORT=str(phone.port))
        async with asyncio.timeout(PATIENCE_S):
            told, _ = await command.communicate()
        await call.speaks(5)
        await call.socket.send(call.carrier.send(Stopped()))
        status, words = await program.end()
    assert told == b"draining: 1 call, for at most 1200 s\n"
    assert (command.returncode, status) == (0, 0)
    assert "ended: caller hung up" in words


async def test_without_a_service_the_drain_command_says_so_in_one_line(tmp_path: Path) -> None:
    command = await drain(tmp_path, PORT=str(free_port()))
    async with asyncio.timeout(PATIENCE_S):
        _, words = await command.communicate()
    assert command.returncode == 1
    assert words.startswith(b"moshi-bridge: no service answers at http://127.0.0.1:")
    assert words.count(b"\n") == 1
    assert b"HOST and PORT" in words


@pytest.mark.parametrize("url", ["localhost:5001", "http://", "http://localhost:99999", "ftp://localhost"])
async def test_what_is_no_url_of_a_service_is_told_in_one_line(tmp_path: Path, url: str) -> None:
    command = await drain(tmp_path, url, OPERATOR_TOKEN="an-operators-secret")
    async with asyncio.timeout(PATIENCE_S):
        _, words = await command.communicate()
    assert (command.returncode, words.count(b"\n")) == (2, 1)


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
