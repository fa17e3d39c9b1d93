"""What counts as memory on the three platforms, what an engine takes, and what a plan makes of it.

The mappings have the keys and kinds of values of `mx.device_info()` in MLX 0.32 (`mlx/backend/*/device_info.cpp`).
"""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, config_v0_1

from tests.workers.conftest import Make
from tests.workers.engine.small import build
from workers.checkpoints.files import CheckpointError, files_in, report_nothing
from workers.checkpoints.locate import locate_stt
from workers.engine.checkpoint import load
from workers.engine.engine import Engine
from workers.engine.kv_cache import KVCache
from workers.engine.memory import Memory, Plan, kv_step_bytes, memory_of, plan, wired_limit
from workers.transcriber.start import load_speech

GIB = 1 << 30
METAL: dict[str, str | int] = {
    "architecture": "applegpu_g14s",
    "device_name": "Apple M2 Max",
    "max_recommended_working_set_size": 24 * GIB,
    "memory_size": 32 * GIB,
}
CUDA: dict[str, str | int] = {
    "architecture": "sm_89",
    "device_name": "NVIDIA GeForce RTX 4090",
    "total_memory": 24 * GIB,
    "free_memory": 22 * GIB,
}
CPU: dict[str, str | int] = {"architecture": "x86_64", "device_name": "AMD EPYC"}
MOSHI_Q4 = Plan(5 * GIB, 512 * 1024, "numpy", calls=1, context=3000, quantised=True)
"""The published 7B in 4 bits: 5 GiB of weights, 1.46 GiB of KV cache a call."""


def bytes_of(lm: Lm) -> int:
    return sum(array.nbytes for array in dict(tree_flatten(lm.parameters())).values())


@pytest.mark.parametrize(("bits", "quantize"), [(None, None), (None, 4), (None, 8), (4, None), (8, 8)])
def test_the_weights_take_what_the_header_says(make: Make, bits: int | None, quantize: int | None) -> None:
    files = files_in(make(mx.bfloat16, bits), "here")
    assert plan(files, quantize, "numpy", 1).weights == bytes_of(load(files, quantize))


def test_an_engine_takes_the_weights_once_and_its_kv_cache() -> None:
    before = mx.get_active_memory()
    lm = build.__wrapped__("mid", mx.bfloat16, 8)
    engine = Engine(lm, 3, context=100)
    kv_cache = 3 * 100 * kv_step_bytes(lm.cfg)
    assert kv_cache == sum(array.nbytes for array in (*engine._kv_cache.keys, *engine._kv_cache.values))
    assert mx.get_active_memory() - before < 1.05 * (bytes_of(lm) + kv_cache)


@pytest.mark.parametrize(("dtype", "item_bytes"), [(mx.bfloat16, 2), (mx.float32, 4)])
def test_the_kv_cache_holds_numbers_like_the_weights(make: Make, dtype: mx.Dtype, item_bytes: int) -> None:
    files = files_in(make(dtype), "here")
    assert plan(files, None, "numpy", 1).kv_step == kv_step_bytes(load(files).cfg, item_bytes)
    assert kv_step_bytes(config_v0_1()) == MOSHI_Q4.kv_step, "the published Moshi"


def test_a_model_of_another_kind_is_named(make: Make) -> None:
    folder = make(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), {"mimi": mx.zeros(3)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no Moshi"):
        plan(files_in(folder, "here"), None, "numpy", 1)


@pytest.mark.parametrize(("active", "info", "expected"), [(5, METAL, 5), (30, METAL, 24), (5, CUDA, 0), (5, CPU, 0)])
def test_a_mac_keeps_resident_what_is_in_use_and_no_more_than_it_may(
    active: int, info: dict[str, str | int], expected: int
) -> None:
    assert wired_limit(active * GIB, info) == expected * GIB


@pytest.mark.parametrize(
    ("info", "total", "available", "expected"),
    [
        (METAL, 32, 32, Memory(24 * GIB, 32 * GIB, shared=True)),
        ({**METAL, "max_recommended_working_set_size": 0}, 32, 32, Memory(64 * GIB // 3, 32 * GIB, shared=True)),
        (CUDA, 64, 60, Memory(22 * GIB, 60 * GIB, shared=False)),
        (CUDA, 8, 3, Memory(22 * GIB, 3 * GIB, shared=False)),
        (CPU, 16, 9, Memory(9 * GIB, 9 * GIB, shared=True)),
        ({}, 16, 9, Memory(9 * GIB, 9 * GIB, shared=True)),
    ],
)
def test_the_memory_that_counts(info: dict[str, str | int], total: int, available: int, expected: Memory) -> None:
    assert memory_of(info, total * GIB, available * GIB) == expected


def test_weights_and_kv_cache_count_against_the_card_and_the_codec_against_ram_unless_it_is_on_the_card() -> None:
    card = Memory(8 * GIB, 2 * GIB, shared=False)
    assert MOSHI_Q4.fits(card), "6.5 GiB on the card, 0.4 GiB in 2 GiB of RAM"
    assert not MOSHI_Q4.fits(replace(card, device=2 * GIB, ram=64 * GIB)), "RAM is no memory of the card"
    assert not MOSHI_Q4.fits(replace(card, ram=GIB // 4)), "nor the other way round"
    exact, on_card = Memory(MOSHI_Q4.on_device, GIB, shared=False), replace(MOSHI_Q4, codec="mlx")
    assert MOSHI_Q4.fits(exact)
    assert not on_card.fits(exact)
    assert on_card.fits(Memory(exact.device + on_card.codecs, 0, shared=False))


def test_on_a_mac_the_working_set_limits_the_engine_and_the_rest_is_for_the_codec() -> None:
    mac = memory_of(METAL, 32 * GIB, 32 * GIB)
    calls = MOSHI_Q4.most_calls(mac)
    assert calls == int((24 * GIB - MOSHI_Q4.weights) // (MOSHI_Q4.context * MOSHI_Q4.kv_step))
    rustymimi = replace(MOSHI_Q4, calls=calls, codec="rustymimi")
    assert rustymimi.fits(mac)
    assert not rustymimi.fits(replace(mac, ram=30 * GIB)), "8 GiB of rustymimi"


def test_where_the_device_has_no_memory_of_its_own_both_share_it() -> None:
    together = MOSHI_Q4.on_device + MOSHI_Q4.codecs
    assert MOSHI_Q4.fits(Memory(together, together, shared=True))
    assert not MOSHI_Q4.fits(Memory(together, together - 1, shared=True))


def test_a_transcriber_counts_with_its_weights_its_calls_and_the_encoders_codebooks() -> None:
    one = replace(MOSHI_Q4, speech=2 * GIB, speech_call=96 << 20)
    two = replace(one, calls=2)
    memory = memory_of(CUDA, 64 * GIB, 64 * GIB)
    assert one.on_device == MOSHI_Q4.on_device + 2 * GIB + (96 << 20)
    assert two.on_device - one.on_device == one.kv_cache + (96 << 20)
    assert one.in_ram(memory) - MOSHI_Q4.in_ram(memory) == 24 * 6 << 20
    assert one.most_calls(memory) < MOSHI_Q4.most_calls(memory)
    shortage = replace(one, calls=40).shortage(memory)
    assert "transcriber 5.8" in shortage
    assert "set TRANSCRIBE=off" in shortage


@pytest.mark.parametrize("quantize", [None, 4, 8])
def test_a_transcribers_weights_and_kv_cache_take_what_its_files_say(
    make: Make, tmp_path: Path, quantize: int | None
) -> None:
    speech = locate_stt("synthetic:stt:random", tmp_path, report_nothing)
    plan_of = plan(files_in(make(mx.bfloat16), "here"), quantize, "numpy", 3, speech=speech)
    lm, _ = load_speech(speech, quantize)
    assert plan_of.speech == bytes_of(lm)
    caches = KVCache.allocate(2, 4, 64, mx.bfloat16, 3, 750)
    assert 3 * plan_of.speech_call == caches.nbytes


def test_a_shortage_says_what_would_fit() -> None:
    memory = Memory(12 * GIB, 16 * GIB, shared=False)
    wanted = replace(MOSHI_Q4, calls=6)
    shortage = wanted.shortage(memory)
    needed = "MAX_CALLS=6 needs 13.8 GiB (weights 5.0, KV cache 8.8, codec 0.4) but 12.0 GiB are free for the device"
    assert shortage == f"{needed}: set MAX_CALLS=4, or set CONTEXT=2375, or choose a smaller MOSHI_CHECKPOINT"
    assert replace(wanted, calls=4).shortage(memory) == replace(wanted, context=2375).shortage(memory) == ""
    plain = replace(MOSHI_Q4, quantised=False).shortage(Memory(GIB, GIB, shared=True))
    assert plain.endswith("set MOSHI_QUANTIZE=4, or choose a smaller MOSHI_CHECKPOINT")
    codec = replace(MOSHI_Q4, codec="rustymimi").shortage(Memory(64 * GIB, GIB // 2, shared=False))
    assert codec.startswith("MAX_CALLS=1 needs 1.0 GiB")
    assert "0.5 GiB of RAM are free" in codec


def test_prompts_are_counted_where_a_checkpoint_takes_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_in(make(mx.float32), "here")
    plain = plan(files, None, "numpy", 1)
    monkeypatch.setattr("workers.engine.memory.takes_prompts", lambda files: True)
    prompted = plan(files, None, "numpy", 1)
    engine = Engine(load(files), 1, context=50, takes_prompts=True)
    assert prompted.on_device - plain.on_device == engine.prompts.most_bytes == 3_000 * plain.kv_step
    exact = Memory(prompted.on_device, GIB, shared=False)
    assert prompted.most_calls(exact) == 1
    assert plain.most_calls(exact) == 2
    assert f"prompts {prompted.prompts / GIB:.1f}" in prompted.shortage(replace(exact, device=1))
