"""What counts as memory on the three platforms, and what a plan makes of it.

The mappings have the keys and kinds of values of `mx.device_info()` in MLX 0.32 (`mlx/backend/*/device_info.cpp`).
"""

from dataclasses import replace

import pytest

from workers.memory import Memory, Plan, codec_bytes, memory_of

GIB = 1 << 30
METAL: dict[str, str | int] = {
    "architecture": "applegpu_g14s",
    "device_name": "Apple M2 Max",
    "max_buffer_length": 20 * GIB,
    "max_recommended_working_set_size": 24 * GIB,
    "memory_size": 32 * GIB,
    "resource_limit": 499_000,
}
CUDA: dict[str, str | int] = {
    "architecture": "sm_89",
    "device_name": "NVIDIA GeForce RTX 4090",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "pci_bus_id": "0000:01:00.0",
    "compute_capability_major": 8,
    "compute_capability_minor": 9,
    "total_memory": 24 * GIB,
    "free_memory": 22 * GIB,
}
CPU: dict[str, str | int] = {"architecture": "x86_64", "device_name": "AMD EPYC"}

MOSHI_Q4 = Plan(5 * GIB, 3000 * 512 * 1024 // 3000, "numpy", calls=1, context=3000, quantised=True)
"""The published 7B in 4 bits: 5 GiB of weights, 1.46 GiB of KV cache a call."""


@pytest.mark.parametrize(
    ("info", "total", "available", "expected"),
    [
        (METAL, 32 * GIB, 32 * GIB, Memory(24 * GIB, 32 * GIB, shared=True)),
        (
            {**METAL, "max_recommended_working_set_size": 0},
            32 * GIB,
            32 * GIB,
            Memory(2 * 32 * GIB // 3, 32 * GIB, True),
        ),
        (CUDA, 64 * GIB, 60 * GIB, Memory(22 * GIB, 60 * GIB, shared=False)),
        (CUDA, 8 * GIB, 3 * GIB, Memory(22 * GIB, 3 * GIB, shared=False)),
        (CPU, 16 * GIB, 9 * GIB, Memory(9 * GIB, 9 * GIB, shared=True)),
        ({}, 16 * GIB, 9 * GIB, Memory(9 * GIB, 9 * GIB, shared=True)),
    ],
)
def test_the_memory_that_counts(info: dict[str, str | int], total: int, available: int, expected: Memory) -> None:
    assert memory_of(info, total, available) == expected


def test_weights_and_kv_cache_count_against_the_card_and_the_codec_against_ram() -> None:
    card = Memory(8 * GIB, 2 * GIB, shared=False)
    assert MOSHI_Q4.fits(card), "6.5 GiB on the card, 0.4 GiB in 2 GiB of RAM"
    assert not MOSHI_Q4.fits(Memory(2 * GIB, 64 * GIB, shared=False)), (
        "a large computer does not make a small card larger"
    )
    assert not MOSHI_Q4.fits(replace(card, ram=GIB // 4)), "nor a card the RAM"


def test_a_codec_on_the_card_counts_there() -> None:
    exact = Memory(MOSHI_Q4.on_device, GIB, shared=False)
    assert MOSHI_Q4.fits(exact)
    assert not replace(MOSHI_Q4, codec="mlx").fits(exact)
    assert replace(MOSHI_Q4, codec="mlx").fits(Memory(exact.device + codec_bytes(1, "mlx"), 0, shared=False))


def test_on_a_mac_the_working_set_limits_the_engine_and_the_rest_is_for_the_codec() -> None:
    mac = memory_of(METAL, 32 * GIB, 32 * GIB)
    calls = MOSHI_Q4.most_calls(mac)
    assert calls == int((24 * GIB - MOSHI_Q4.weights) // (MOSHI_Q4.context * MOSHI_Q4.kv_step))
    assert replace(MOSHI_Q4, calls=calls, codec="rustymimi").fits(mac)
    assert not replace(MOSHI_Q4, calls=calls, codec="rustymimi").fits(replace(mac, ram=30 * GIB)), "8 GiB of rustymimi"


def test_where_the_device_has_no_memory_of_its_own_both_share_it() -> None:
    together = MOSHI_Q4.on_device + MOSHI_Q4.codecs
    assert MOSHI_Q4.fits(Memory(together, together, shared=True))
    assert not MOSHI_Q4.fits(Memory(together, together - 1, shared=True))


def test_a_shortage_says_what_would_fit() -> None:
    memory = Memory(12 * GIB, 16 * GIB, shared=False)
    wanted = replace(MOSHI_Q4, calls=6)
    said = wanted.shortage(memory)
    assert said.startswith("MAX_CALLS=6 needs 13.8 GiB (weights 5.0, KV cache 8.8, codec 0.4) but 12.0 GiB are free")
    assert "set MAX_CALLS=4, or set CONTEXT=2375, or" in said
    assert replace(wanted, calls=4).shortage(memory) == ""
    assert replace(wanted, context=2375).shortage(memory) == ""
    assert "\n" not in said


def test_quantising_is_advised_where_it_helps_only() -> None:
    small = Memory(GIB, GIB, shared=True)
    assert "MOSHI_QUANTIZE" not in MOSHI_Q4.shortage(small)
    said = replace(MOSHI_Q4, quantised=False).shortage(small)
    assert said.endswith("set MOSHI_QUANTIZE=4, or choose a smaller MOSHI_CHECKPOINT")


def test_too_little_ram_for_the_codec_is_told_as_such() -> None:
    assert "needs 0.7 GiB" in (
        said := replace(MOSHI_Q4, codec="rustymimi").shortage(Memory(64 * GIB, GIB // 2, shared=False))
    )
    assert "0.5 GiB of RAM are free" in said
