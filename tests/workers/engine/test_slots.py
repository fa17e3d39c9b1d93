"""How many calls fit, and how many are stepped in time."""

from dataclasses import replace

import pytest

from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from workers.checkpoints.files import Files, files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.engine.checkpoint import load
from workers.engine.memory import plan
from workers.engine.sampling import SamplingSettings
from workers.engine.start import AUTO_MEMORY_SHARE, fitting_slots, timely_engine
from workers.memory import MOST_CALLS, Memory, MemoryShort
from workers.messages import WorkerConfig

AUTO = replace(LOOPBACK, slots=0, engine="mlx", codec="numpy", checkpoint="synthetic:random")
GIB = 1 << 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = make_synthetic("random:tiny:f32", synthetic_cache(tmp_path_factory))
    return files_in(folder, "synthetic:random")


def _needed(files: Files, calls: int) -> int:
    wanted = plan(files, None, "numpy", calls)
    return wanted.on_device + wanted.codecs


def _slots(files: Files, config: WorkerConfig, free: int) -> int:
    """Return how many calls get a slot on a CPU with so many bytes of free RAM."""
    return fitting_slots(files, config, Memory(free, free, shared=True))


def test_auto_takes_what_fits_and_leaves_some_to_spare(files: Files) -> None:
    available = round(_needed(files, 5) / AUTO_MEMORY_SHARE) + 1024
    assert _slots(files, AUTO, available) == 5
    assert _slots(files, AUTO, available - round(0.1 * GIB)) < 5


def test_auto_never_takes_more_than_a_bench_has_shown(files: Files) -> None:
    assert _slots(files, AUTO, 4096 * GIB) == MOST_CALLS


def test_a_number_that_fits_is_taken_and_one_that_does_not_is_refused(files: Files) -> None:
    wanted = replace(AUTO, slots=3)
    assert _slots(files, wanted, _needed(files, 3)) == 3
    with pytest.raises(MemoryShort, match="MAX_CALLS=3 needs"):
        _slots(files, wanted, _needed(files, 3) - 1)


def test_not_one_call_is_no_service(files: Files) -> None:
    with pytest.raises(MemoryShort, match="MAX_CALLS"):
        _slots(files, AUTO, _needed(files, 1) // 2)


def test_on_a_card_the_calls_are_as_many_as_its_own_memory_holds(files: Files) -> None:
    wanted = plan(files, None, "numpy", 5)
    card = Memory(round(wanted.on_device / AUTO_MEMORY_SHARE) + 1024, 4096 * GIB, shared=False)
    assert fitting_slots(files, AUTO, card) == 5
    assert fitting_slots(files, AUTO, Memory(4096 * GIB, card.ram, shared=False)) == MOST_CALLS


def test_a_shorter_context_takes_less(files: Files) -> None:
    available = round(_needed(files, 5) / AUTO_MEMORY_SHARE)
    assert _slots(files, replace(AUTO, context=300), available) > 5


def test_what_cannot_be_stepped_in_time_is_halved_until_it_can(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.start.full_step_s", lambda engine, progress: 0.03 * engine.slots)
    assert timely_engine(load(files), 8, SamplingSettings(), context=64).slots == 2
