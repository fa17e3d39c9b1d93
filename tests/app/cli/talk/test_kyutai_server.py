"""A conversation with Kyutai's own server, `moshi_mlx.local_web`, as it is, on a small random checkpoint.

A slow machine computes less than a frame in 80 ms, so gaps are not counted here.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import soundfile

from app.cli.service_process import free_port
from tests.app.cli.talk.test_run import talk
from tests.app.cli.talk.tones import tone
from tests.synthetic import synthetic_cache
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER
from workers.checkpoints.synthetic import make_synthetic

LISTENS = b"listening to"


@asynccontextmanager
async def running(command: Sequence[str], listens: bytes) -> AsyncIterator[None]:
    """Start a server and its processes; go on once it says that it listens."""
    piped, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    server = await asyncio.create_subprocess_exec(*command, stdout=piped, stderr=joined, start_new_session=True)
    assert server.stdout is not None
    try:
        said = b""
        while listens not in said:
            line = await server.stdout.readline()
            assert line, said.decode()
            said += line
        reading = asyncio.create_task(server.stdout.read())
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
    await reading


@asynccontextmanager
async def local_web(checkpoint: Path) -> AsyncIterator[str]:
    port = free_port()
    files = {"tokenizer": checkpoint / TOKENIZER, "moshi-weight": checkpoint / "model.safetensors"}
    files |= {"mimi-weight": checkpoint / MIMI, "lm-config": checkpoint / CONFIG}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    command = (sys.executable, "-m", "moshi_mlx.local_web", *options, "--static", "none", "--no-browser")
    async with running((*command, "--port", str(port)), LISTENS):
        yield f"ws://localhost:{port}"


@pytest.mark.slow
async def test_moshi_mlx_is_heard_twice(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = make_synthetic("random:tiny", synthetic_cache(tmp_path_factory))
    soundfile.write(tmp_path / "in.wav", tone(1.0), 24_000)
    async with local_web(checkpoint) as url:
        for _ in range(2):
            ended = await talk(tmp_path, "--url", url, "--wav", "in.wav", "--seconds", "5")
            assert (ended.status, ended.error) == (0, "")
            assert "first sound after" in ended.out
            assert len(ended.out.splitlines()) > 2, "words were shown"
