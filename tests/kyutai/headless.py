"""Kyutai's `moshi.client` as it is, without a sound device; its other modules, which need PyTorch, are left out."""

import asyncio
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from workers.messages import FRAME_S, SAMPLE_RATE_HZ, Pcm

PACKAGE = "moshi==0.2.13"
MODULES = ("client.py", "client_utils.py")
SHOWN_WITHIN_S = 120.0


@dataclass(frozen=True)
class Heard:
    """What the client heard, and for each block of 80 ms whether it had nothing to play."""

    pcm: Pcm
    empty: list[bool]
    text: str
    errors: str

    def gaps(self, from_s: float) -> int:
        """Return how many blocks were empty from so many seconds after the first sound on."""
        first = self.empty.index(False)
        return sum(self.empty[first + round(from_s / FRAME_S) :])


async def install_client(folder: Path) -> None:
    """Put the client into a folder as the package `client`. Skips the test where it cannot be fetched."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv fetches the client")
    target = ("--python", sys.executable, "--target", str(folder / "wheel"))
    process = await asyncio.create_subprocess_exec(uv, "pip", "install", "-q", "--no-deps", *target, PACKAGE)
    if await process.wait():
        pytest.skip(f"{PACKAGE} cannot be fetched")
    (folder / "kyutai").mkdir()
    for module in MODULES:
        shutil.copy(folder / "wheel" / "moshi" / module, folder / "kyutai")


async def run_client(installed: Path, folder: Path, port: int, said: Pcm, until: bytes, seconds: float) -> Heard:
    """Run one client until it has shown that text, and for so many seconds more; it says `said`, then silence."""
    files = _files(folder, np.pad(said, (0, round((SHOWN_WITHIN_S + seconds) * SAMPLE_RATE_HZ))))
    path = os.pathsep.join((str(Path(__file__).parent), str(installed)))
    piped = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kyutai.client", "--host", "127.0.0.1", "--port", str(port)),
        env={**os.environ, **files, "PYTHONPATH": path},
        stdout=piped,
        stderr=piped,
    )
    assert process.stdout is not None
    shown = b""
    try:
        async with asyncio.timeout(SHOWN_WITHIN_S):
            while until not in shown and not process.stdout.at_eof():
                shown += await process.stdout.read(1_000)
        communicating = asyncio.create_task(process.communicate())
        await asyncio.wait([communicating], timeout=seconds)
    finally:
        process.send_signal(signal.SIGINT)
    out, errors = await communicating
    pcm = np.fromfile(files["HEARD"], np.float32)
    return Heard(pcm, np.fromfile(files["EMPTY"], bool).tolist(), (shown + out).decode(), errors.decode())


def _files(folder: Path, said: Pcm) -> dict[str, str]:
    folder.mkdir()
    said.tofile(folder / "SAID")
    return {name: str(folder / name) for name in ("SAID", "HEARD", "EMPTY")}
