"""Checkpoints through the real processes: PersonaPlex's files serve a call, and MOSHI_LORA reaches the engine."""

from asyncio import to_thread

import numpy as np
import pytest

from app.config import CodecKind
from tests.processes.real_workers import SLOT, real_workers
from tests.synthetic import synthetic_cache
from workers.messages import FRAME_SAMPLES, Epoch, Frame
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
