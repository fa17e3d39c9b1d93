"""Checkpoints through the real processes: PersonaPlex's files, MOSHI_LORA, and a repository that is downloaded."""

import os
import signal
from asyncio import to_thread
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from app.config import CodecKind
from tests.processes.pipeline import running
from tests.processes.real_workers import SLOT, real_workers
from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from workers.checkpoints.files import report_nothing
from workers.checkpoints.locate import locate
from workers.messages import FRAME_SAMPLES, Epoch, Frame, Stage
from workers.supervisor import WorkerRefused


async def test_a_call_on_personaplexs_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = synthetic_cache(tmp_path_factory)
    async with real_workers("synthetic:personaplex", CodecKind.NUMPY, cache) as workers:
        await workers.open()
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        frames = [await to_thread(workers, Frame(SLOT, Epoch(1), seq, silence)) for seq in range(3)]
        assert [frame.seq for frame in frames] == [0, 1, 2]
        assert frames[-1].pcm is not None
        assert np.abs(frames[-1].pcm).max() > 0


async def test_a_lora_that_is_missing_ends_the_start_in_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache, reason = synthetic_cache(tmp_path_factory), r"^MOSHI_LORA=/nowhere: there is no /nowhere/lora\.safetensors; "
    with pytest.raises(WorkerRefused, match=reason):
        async with real_workers("synthetic:random", CodecKind.NUMPY, cache, lora="/nowhere"):
            pass


COMMIT = "0123456789abcdef" * 2 + "01234567"


def keep_download(cache: Path, repo: str, checkpoint: Path) -> None:
    """Write what Hugging Face's library keeps of a repository that it has downloaded."""
    kept = cache / f"models--{repo.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    (kept / "snapshots").mkdir()
    (kept / "snapshots" / COMMIT).symlink_to(checkpoint)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let workers ask a Hugging Face that is out of order; what they ask for is in the list."""
    paths: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        yield paths
        hub.shutdown()
        thread.join()


async def test_an_engine_that_is_started_again_asks_nothing_of_hugging_face(
    asked: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls wait for it, and it needs the files of before."""
    checkpoint = locate("synthetic:random", synthetic_cache(tmp_path_factory), report_nothing).model.parent
    keep_download(tmp_path / "hub", "someone/moshi", checkpoint)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    async with running(replace(LOOPBACK, codec="numpy", checkpoint="hf://someone/moshi")) as pipeline:
        assert asked
        asked.clear()
        os.kill(pipeline.supervisor.process_ids[Stage.STEP], signal.SIGKILL)
        await pipeline.next_lost()
        await pipeline.until_ready()
        assert not asked
