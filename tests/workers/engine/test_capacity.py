"""How many calls fit, and how many are stepped in time."""

from dataclasses import replace

import pytest

from tests.workers.config import LOOPBACK
from workers.checkpoint_files import Files, files_in
from workers.engine.capacity import MOST_SLOTS, SPARE, fitting_slots, timely_engine
from workers.engine.checkpoint import config_of, load
from workers.engine.memory import number_bytes, ring_bytes, weights_bytes
from workers.engine.sampling import Sampling
from workers.memory import MemoryShort, codec_bytes
from workers.standins import make_standin

AUTO = replace(LOOPBACK, slots=0, engine="mlx", codec="numpy", checkpoint="synthetic:random")
GIB = 1 << 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = make_standin("random:tiny:f32", tmp_path_factory.mktemp("cache"))
    return files_in(folder, "synthetic:random")


def _needed(files: Files, calls: int) -> int:
    ring = ring_bytes(config_of(files), calls, item_bytes=number_bytes(files))
    return weights_bytes(files) + ring + codec_bytes(calls, "numpy")


def test_auto_takes_what_fits_and_leaves_some_to_spare(files: Files) -> None:
    available = round(_needed(files, 5) / SPARE) + 1024
    assert fitting_slots(files, AUTO, available) == 5
    assert fitting_slots(files, AUTO, available - round(0.1 * GIB)) < 5


def test_auto_never_takes_more_than_a_bench_has_shown(files: Files) -> None:
    assert fitting_slots(files, AUTO, 4096 * GIB) == MOST_SLOTS


def test_a_number_that_fits_is_taken_and_one_that_does_not_is_refused(files: Files) -> None:
    wanted = replace(AUTO, slots=3)
    assert fitting_slots(files, wanted, _needed(files, 3)) == 3
    with pytest.raises(MemoryShort, match="MAX_CALLS=3 needs"):
        fitting_slots(files, wanted, _needed(files, 3) - 1)


def test_not_one_call_is_no_service(files: Files) -> None:
    with pytest.raises(MemoryShort, match="MAX_CALLS"):
        fitting_slots(files, AUTO, _needed(files, 1) // 2)


def test_a_shorter_context_takes_less(files: Files) -> None:
    available = round(_needed(files, 5) / SPARE)
    assert fitting_slots(files, replace(AUTO, context=300), available) > 5


def test_what_cannot_be_stepped_in_time_is_halved_until_it_can(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.capacity.full_step_s", lambda engine, progress: 0.03 * engine.slots)
    assert timely_engine(load(files), 8, Sampling(), context=64).slots == 2
