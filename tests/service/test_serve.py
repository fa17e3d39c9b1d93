"""`moshi-bridge serve` and `moshi-bridge drain`: how the service starts and how it ends."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.cli.service_process import free_port
from app.config import read_settings
from app.server.serve import EXIT_SETTINGS
from app.server.serve import serve as serve_here
from app.twilio.events import Stopped
from app.twilio.twiml import Reject
from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, Call, Phone, closing_code, new_call_sid

ROOT = str(Path(__file__).parent.parent.parent)
LOOPBACK = {"ENGINE": "loopback", "CODEC": "loopback"}
GOOD = {**LOOPBACK, "PUBLIC_URL": PUBLIC, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_ACCOUNT_SID": ACCOUNT}
INHERITED = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


@dataclass
class Program:
    """`moshi-bridge serve` as a process, with what it writes to standard error."""

    process: asyncio.subprocess.Process

    async def until(self, text: str) -> list[str]:
        """Read standard error up to the line that holds this; return what was read."""
        assert self.process.stderr
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not lines or text not in lines[-1]:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"the program ended without a word of {text!r}"
                lines.append(line.rstrip("\n"))
        return lines

    async def end(self) -> tuple[int, str]:
        """Return the exit status, and what was still written, once the program has ended."""
        _, words = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        assert self.process.returncode is not None
        return self.process.returncode, words.decode()

    def everybody(self) -> list[int]:
        """Return the program's process and those of its workers."""
        family = psutil.Process(self.process.pid)
        return [family.pid, *(child.pid for child in family.children(recursive=True))]


@contextlib.asynccontextmanager
async def running(process: asyncio.subprocess.Process) -> AsyncIterator[Program]:
    """Kill a process when the block ends, if it has not ended."""
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def serve(folder: Path, *arguments: str, **settings: Any) -> AsyncIterator[Program]:
    """Start the program in a folder, with these settings alone."""
    async with running(await start(folder, "serve", *arguments, **{"DATABASE_URL": "off", **settings})) as program:
        yield program


@contextlib.asynccontextmanager
async def serving(folder: Path, *arguments: str, **settings: str) -> AsyncIterator[tuple[Program, Phone]]:
    """Start the program on a free port; it is ready for calls."""
    port = str(free_port())
    async with (
        serve(folder, *arguments, **{**GOOD, "PORT": port, **settings}) as program,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http,
    ):
        await program.until("ready for calls")
        yield program, Phone(int(port), http)


async def start(
    folder: Path,
    *arguments: str,
    module: str = "app",
    preexec: Callable[[], object] | None = None,
    terminal: int = asyncio.subprocess.PIPE,
    **settings: Any,
) -> asyncio.subprocess.Process:
    """Start a command with these settings alone; it controls its terminal, if it is given one."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", module, *arguments),
        cwd=folder,
        env={**INHERITED, "PYTHONPATH": ROOT, "HOME": str(folder), "COLUMNS": "160", **settings},
        stdout=terminal,
        stderr=terminal,
        preexec_fn=preexec if terminal == asyncio.subprocess.PIPE else lambda: os.login_tty(terminal),
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command once it has ended."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def command(folder: Path, *arguments: str, **settings: Any) -> tuple[int, str, str]:
    return await end(await start(folder, *arguments, **settings))


SIGNED: dict[str, Any] = {"twilio_auth_token": TOKEN, "twilio_account_sid": ACCOUNT}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"public_url": PUBLIC}, "TWILIO_AUTH_TOKEN is not set"),
        ({**SIGNED, "host": "host.invalid"}, "HOST=host.invalid"),
        ({**SIGNED, "tunnel": True}, "brew install cloudflared"),
        ({"database_url": "sqlite:///{folder}/file/calls.db"}, "DATABASE_URL: "),
        ({"database_url": "postgres://ann:secret@db.example.com/calls?pgbouncer=true"}, "pgbouncer"),
        ({"recordings_dir": "{folder}/file"}, "RECORDINGS_DIR="),
        ({"engine": "mlx", "codec": "auto", "moshi_checkpoint": "{folder}/nowhere"}, "MOSHI_CHECKPOINT={folder}"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    settings: dict[str, Any],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {
        name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in settings.items()
    }
    wanted: dict[str, Any] = {"engine": "loopback", "codec": "loopback", "port": free_port(), **given}
    assert serve_here(read_settings(**wanted)) == EXIT_SETTINGS
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("moshi-bridge: ")
    assert named.format(folder=tmp_path) in line
    assert "secret" not in line


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve_here(read_settings(engine="loopback", codec="loopback", port=port)) == EXIT_SETTINGS
    assert f"PORT={port}" in capsys.readouterr().err


def test_wrong_persona_files_are_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ada.toml").write_text("name =")
    (tmp_path / "bob.toml").write_text('voice = "bob.wav"')
    settings = read_settings(engine="loopback", codec="loopback", port=free_port(), personas_dir=str(tmp_path))
    assert serve_here(settings) == EXIT_SETTINGS
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "moshi-bridge: ada.toml: is no TOML",
        "moshi-bridge: bob.toml: voice: bob.wav is not in PERSONAS_DIR",
    ]


async def test_settings_are_read_from_a_file_in_its_folder_and_doubtful_ones_are_warned_of(tmp_path: Path) -> None:
    """Written as for Docker's --env-file, which keeps quotes; names with the prefix win over what others export."""
    port = free_port()
    settings = {**LOOPBACK, "MOSHI_BRIDGE_HOST": "127.0.0.1", "MOSHI_BRIDGE_PORT": str(port), "MOSHI_BRIDGE_SEED": ""}
    settings |= {"PUBLIC_URL": '"http://phone.example.com" ', "TWILIO_AUTH_TOKEN": "'not-hex'"}
    settings["TRANSCRIBE"] = "synthetic:stt"
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    conda = {"HOST": "x86_64-conda-linux-gnu", "PORT": "many", "SEED": "conda"}
    async with serve(tmp_path, **conda) as program:
        words = "\n".join(await program.until("ready for calls"))
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    assert "Twilio opens sockets over TLS only" in words
    assert "TWILIO_AUTH_TOKEN: it should be 32 hex digits" in words
    assert "TRANSCRIBE is not used" in words


@contextlib.asynccontextmanager
async def in_mid_call(folder: Path, **settings: str) -> AsyncIterator[tuple[Program, Phone, Call]]:
    async with serving(folder, MAX_CALLS="2", **settings) as (program, phone), phone.call() as call:
        await call.speaks(2)
        yield program, phone, call


@pytest.mark.parametrize("second", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
async def test_after_a_sigterm_calls_go_on_until_a_second_signal(tmp_path: Path, second: signal.Signals) -> None:
    async with in_mid_call(tmp_path, DRAIN_SECONDS="600") as (program, phone, call):
        pids = program.everybody()
        assert len(pids) == 1 + 3
        program.process.terminate()
        await program.until("draining: 1 on the line")
        readyz = await phone.http.get("/readyz")
        assert (readyz.status_code, readyz.json()["draining"], readyz.json()["calls"]) == (503, True, 1)
        assert await phone.ring(new_call_sid()) == (Reject("busy"),)
        await call.speaks(2)
        program.process.send_signal(second)
        assert await closing_code(call.socket) in (1000, 1012)
        status, words = await program.end()
    assert status == 0
    assert "ended: the service is stopping" in words
    assert "Traceback" not in words
    await all_gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, "0"), (signal.SIGHUP, "1")])
async def test_when_the_time_to_drain_is_over_the_calls_end_in_order(
    tmp_path: Path, number: signal.Signals, seconds: str
) -> None:
    async with in_mid_call(tmp_path, DRAIN_SECONDS=seconds) as (program, _, call):
        program.process.send_signal(number)
        assert await closing_code(call.socket) in (1000, 1012)
        status, words = await program.end()
    assert (status, "ended: the service is stopping" in words, "Traceback" in words) == (0, True, False)


@pytest.mark.slow
async def test_the_drain_command_waits_until_the_last_call_has_ended(tmp_path: Path) -> None:
    """DRAIN_SECONDS, 0 unless set, is about signals: a drain without a limit cuts no call."""
    async with in_mid_call(tmp_path, MAX_CALL_SECONDS="1200") as (program, phone, call):
        port = str(phone.port)
        status, words, _ = await command(tmp_path, "drain", "--no-wait", PORT=port)
        assert (status, words) == (0, "draining: 1 call, for at most 1200 s\n")
        interrupted = await start(tmp_path, "drain", PORT=port)
        assert interrupted.stdout
        assert (await interrupted.stdout.readline()).startswith(b"draining: 1 call")
        interrupted.send_signal(signal.SIGINT)
        assert (await end(interrupted))[0] == 1, "what a script does once it has stopped must wait"
        waiting = await start(tmp_path, "drain", "--seconds", "600", PORT=port)
        assert waiting.stdout
        assert (await waiting.stdout.readline()).startswith(b"draining: 1 call")
        assert await phone.ring(new_call_sid()) == (Reject("busy"),)
        await call.speaks(5)
        await call.socket.send(call.carrier.send(Stopped()))
        drained, words, _ = await end(waiting)
        status, log = await program.end()
    assert (drained, status) == (0, 0)
    assert words.endswith("stopped\n")
    assert "ended: caller hung up" in log


@pytest.mark.slow
async def test_a_signal_during_the_start_ends_everything_in_order(tmp_path: Path) -> None:
    async with serve(tmp_path, **GOOD, PORT=str(free_port())) as program:
        await program.until("listening on")
        program.process.terminate()
        status, words = await program.end()
    assert "Traceback" not in words
    assert status in (0, -signal.SIGTERM)


@pytest.mark.slow
async def test_a_service_that_failed_has_an_exit_status_and_says_what_failed(tmp_path: Path) -> None:
    broken = (
        "from app.telemetry.event_loop_lag import EventLoopLag\n"
        "async def fail(gauge): raise RuntimeError('a bug')\n"
        "EventLoopLag.watch = fail\n"
        "from app.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "broken.py").write_text(broken)
    paths = f"{ROOT}{os.pathsep}{tmp_path}"
    settings = {**GOOD, "PORT": str(free_port()), "DATABASE_URL": "off", "PYTHONPATH": paths}
    status, _, words = await command(tmp_path, "serve", module="broken", **settings)
    assert status == 1
    [critical] = [line for line in words.splitlines() if '"level": "critical"' in line]
    assert "the event loop lag has failed" in critical
    assert words.splitlines()[-1] == "moshi-bridge: the event loop lag has failed: RuntimeError('a bug')"
