"""`moshi-bridge talk` as it is typed."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from app.cli.main import cli
from tests.app.cli.talk.moshi_server import MoshiServer, serving
from tests.app.cli.talk.test_tls import Certificate
from tests.app.cli.talk.tones import tone, tone_s
from tests.processes.pipeline import PATIENCE_S

NO_PORTAUDIO = 'raise OSError("PortAudio library not found")'
DEVICES = Path(__file__).parents[3] / "kyutai"
"""Where a fake of `sounddevice` is that says a file."""


@dataclass
class Ended:
    status: int
    out: str
    error: str


async def start(folder: Path, *options: str, **environment: str) -> asyncio.subprocess.Process:
    env = {**os.environ, "PYTHONPATH": f"{DEVICES}{os.pathsep}{Path.cwd()}", **environment}
    piped = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "app", "talk", *options)
    return await asyncio.create_subprocess_exec(*command, cwd=folder, env=env, stdout=piped, stderr=piped)


async def end(process: asyncio.subprocess.Process) -> Ended:
    out, error = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), error.decode())


async def talk(folder: Path, *options: str, **environment: str) -> Ended:
    return await end(await start(folder, *options, **environment))


def assert_fails(status: int, why: str, *options: str) -> None:
    """It says why in one line."""
    done = CliRunner().invoke(cli, ["talk", *options])
    assert (done.exit_code, len(done.stderr.splitlines())) == (status, 1), done.output
    assert why in done.stderr


@contextmanager
def serving_aside(server: MoshiServer) -> Iterator[None]:
    """Serve in a thread; the command has this one, for its signals."""
    up, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with serving(server):
            server.ready.set()
            up.set()
            await ended.wait()

    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
        loop = runner.get_loop()
        thread.submit(runner.run, serve())
        assert up.wait(PATIENCE_S)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(ended.set)


@pytest.fixture
def said(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "in.wav", tone(0.5), 24_000)
    return tmp_path / "in.wav"


async def test_a_file_is_said_to_a_server_with_a_pinned_certificate(tmp_path: Path, said: Path) -> None:
    certificate = Certificate(tmp_path)
    options = ["--wav", str(said), "--out", "out.wav", "--seconds", "3.5", "--pin", certificate.sha256]
    async with serving(MoshiServer(change=lambda _, ogg: [b"\x01" + ogg, b"\x02 hi"]), certificate.context) as server:
        server.ready.set()
        options += ["--url", server.url, "--persona", "ada"]
        ended = await talk(tmp_path, *options, CHAT_TOKEN="secret-token-of-the-chat")
    assert (ended.status, ended.error) == (0, "")
    assert "hi hi" in ended.out
    assert "3.5 s, first sound after" in ended.out
    assert "secret-token-of-the-chat" not in ended.out
    assert server.authorization == "Bearer secret-token-of-the-chat"
    assert server.query == {"persona": "ada"}
    saved, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert rate_hz == 24_000
    assert [tone_s(saved[:, side]) > 0.3 for side in (0, 1)] == [True, True]


@pytest.mark.parametrize(
    ("server", "seconds", "why"),
    [
        (MoshiServer(status=503), "30", "slots"),
        (MoshiServer(ends_after=3), "30", "before its time"),
        (MoshiServer(change=lambda *_: [b"\x06"]), "1", "nothing was heard"),
    ],
)
def test_trouble_is_one_line_and_exit_status_1(said: Path, server: MoshiServer, seconds: str, why: str) -> None:
    with serving_aside(server):
        assert_fails(1, why, "--url", server.url, "--wav", str(said), "--seconds", seconds)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--wav", "missing.wav"], "missing.wav"),
        (["--out", "out.wav"], "--wav"),
        (["--url", "gpu"], "gpu"),
        (["--url", "wss://gpu", "--pin", "abc"], "SHA-256"),
        (["--url", "wss://gpu", "--ca", "missing.pem"], "missing.pem"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_status_2(options: list[str], why: str) -> None:
    assert_fails(2, why, *options)


def test_without_portaudio_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounddevice.py").write_text(NO_PORTAUDIO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert_fails(1, "libportaudio2", "--url", "ws://127.0.0.1:1")


async def test_microphone_and_loudspeaker_until_ctrl_c(tmp_path: Path) -> None:
    np.tile(tone(1.0), 120).tofile(tmp_path / "said")
    heard = asyncio.Event()

    def change(step: int, ogg: bytes) -> list[bytes]:
        if step == 10:
            heard.set()
        return [b"\x01" + ogg]

    async with serving(MoshiServer(change=change)) as server:
        server.ready.set()
        files = {name: str(tmp_path / name.lower()) for name in ("SAID", "HEARD", "EMPTY")}
        process = await start(tmp_path, "--url", server.url, **files)
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        process.send_signal(signal.SIGINT)
        ended = await end(process)
    assert (ended.status, ended.error) == (0, "")
    assert "headphones" in ended.out
    assert np.abs(server.heard_samples).max() > 0.2
    assert np.abs(np.fromfile(files["HEARD"], np.float32)).max() > 0.2
