"""What the service's settings make of a checkpoint's wishes."""

from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from workers.checkpoints.files import Files, files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.engine.engine import Engine
from workers.engine.memory import plan
from workers.engine.start import AUTO_MEMORY_SHARE, start_engine
from workers.memory import Memory
from workers.messages import Slot, WorkerConfig

ONE = Slot(0)
CONFIG = replace(LOOPBACK, slots=1, engine="mlx", codec="numpy", checkpoint="synthetic:random", context=50)
ARGMAX = (("text_temperature", 0.0), ("audio_temperature", 0.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return files_in(make_synthetic("random:tiny:f32", synthetic_cache(tmp_path_factory)), "synthetic:random")


def say(files: Files, config: WorkerConfig, seed: int | None) -> list[int]:
    engine, _, _ = start_engine(files, config, lambda *_: None)
    assert isinstance(engine, Engine)
    engine.open(ONE, seed)
    return [engine.step({ONE: np.full(8, number, np.int32)})[ONE].text_token for number in range(12)]


def test_what_is_set_goes_before_what_the_checkpoint_wants(files: Files) -> None:
    argmax = replace(CONFIG, sampling=ARGMAX)
    assert say(files, argmax, 1) == say(files, argmax, 2), "temperature 0 is argmax"
    hot = replace(CONFIG, sampling=(("text_temperature", 5.0), ("text_top_k", 1_000)))
    assert say(files, hot, 1) != say(files, hot, 2)


def test_a_seed_draws_the_same_chances_again(files: Files) -> None:
    assert say(files, CONFIG, 7) == say(files, CONFIG, 7)


@pytest.mark.parametrize("slots", [2, 0])
def test_a_long_start_reports_progress_by_chunk(files: Files, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    two = plan(files, None, "numpy", 2, CONFIG.context)
    free = round((two.on_device + two.codecs) / AUTO_MEMORY_SHARE) + 1024
    monkeypatch.setattr("workers.engine.start.device_memory", lambda: Memory(free, free, shared=True))
    reports: dict[str, list[tuple[int, int]]] = {}
    start_engine(files, replace(CONFIG, slots=slots), lambda what, *done: reports.setdefault(what, []).append(done))
    assert {"loading weights", "warming up"} <= reports.keys()
    for chunks in reports.values():
        assert len(chunks) > 2
        assert chunks[-1][0] == chunks[-1][1], "the end is told"
