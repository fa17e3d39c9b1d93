"""What a command that starts a service of its own leaves behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes.pipeline import PATIENCE_S
from tests.service.test_serve import ROOT

LOOK_AGAIN_S = 0.05
WORKERS = 3


def family(process_id: int) -> list[psutil.Process]:
    return psutil.Process(process_id).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_bench_that_is_ended_takes_its_service_with_it(tmp_path: Path, number: signal.Signals) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "bench", "line", "--seconds", "600"),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(PATIENCE_S):
        while len(started := family(process.pid)) < 1 + WORKERS:  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(LOOK_AGAIN_S)
        process.send_signal(number)
        await process.wait()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, started, PATIENCE_S)
    assert alive == []
    assert len(gone) == 1 + WORKERS
