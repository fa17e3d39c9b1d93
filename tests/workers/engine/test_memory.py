"""What an engine takes, known beforehand."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, config_v0_1

from tests.workers.conftest import Make
from tests.workers.engine.small import build
from workers.checkpoints.files import CheckpointError, files_in
from workers.engine.checkpoint import load
from workers.engine.engine import Engine
from workers.engine.memory import kv_cache_bytes, number_bytes, plan, weights_bytes, wired_limit


def bytes_of(lm: Lm) -> int:
    return sum(array.nbytes for array in dict(tree_flatten(lm.parameters())).values())


@pytest.mark.parametrize(("bits", "quantize"), [(None, None), (None, 4), (None, 8), (4, None), (8, 8)])
def test_the_weights_take_what_the_header_says(make: Make, bits: int | None, quantize: int | None) -> None:
    files = files_in(make(mx.bfloat16, bits), "here")
    assert weights_bytes(files, quantize) == bytes_of(load(files, quantize))


def test_an_engine_takes_the_weights_once_and_its_ring() -> None:
    before = mx.get_active_memory()
    lm = build.__wrapped__("mid", mx.bfloat16, 8)
    engine = Engine(lm, 3, context=100)
    ring = kv_cache_bytes(lm.cfg, 3, 100, item_bytes=2)
    assert ring == sum(array.nbytes for array in (*engine._kv_cache.keys, *engine._kv_cache.values))
    assert mx.get_active_memory() - before < 1.05 * (bytes_of(lm) + ring)


def test_a_call_on_the_published_moshi_takes_a_gigabyte_and_a_half() -> None:
    assert kv_cache_bytes(config_v0_1(), 1) == 3000 * 512 * 1024


@pytest.mark.parametrize(("dtype", "expected"), [(mx.bfloat16, 2), (mx.float32, 4)])
def test_the_ring_holds_numbers_like_the_weights(make: Make, dtype: mx.Dtype, expected: int) -> None:
    assert number_bytes(files_in(make(dtype), "here")) == expected


def test_a_model_of_another_kind_is_named(make: Make) -> None:
    folder = make(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), {"mimi": mx.zeros(3)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no Moshi"):
        plan(files_in(folder, "here"), None, "numpy", 1)


@pytest.mark.parametrize(("active", "expected"), [(5 << 30, 5 << 30), (30 << 30, 24 << 30)])
def test_a_mac_keeps_resident_what_is_in_use_and_no_more_than_it_may(active: int, expected: int) -> None:
    assert wired_limit(active, {"max_recommended_working_set_size": 24 << 30, "memory_size": 32 << 30}) == expected


@pytest.mark.parametrize("info", [{}, {"total_memory": 24 << 30, "free_memory": 20 << 30}])
def test_elsewhere_nothing_is_wired(info: dict[str, str | int]) -> None:
    assert wired_limit(5 << 30, info) is None
