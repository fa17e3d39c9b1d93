"""Who answers in the demo."""

from typing import Any

import pytest

from app.cli.demo.run import SYNTHETIC, choose, talk_yourself
from app.cli.doctor.survey import survey_device
from app.config import read_settings

CPU = {"device": "Device(cpu, 0)", "device_name": "AMD EPYC", "is_gpu": False}
GPU = {"device": "Device(gpu, 0)", "device_name": "NVIDIA H100", "is_gpu": True}
BROKEN = {"mlx_error": "libcuda.so.1: cannot open shared object file"}
SETTINGS = read_settings(moshi_checkpoint="hf://kyutai/moshiko-mlx-q4")


@pytest.mark.parametrize(
    ("device", "has_card", "checkpoint", "why"),
    [
        (GPU, True, SETTINGS.model.checkpoint, "fetched if need be"),
        (GPU, False, SETTINGS.model.checkpoint, "fetched if need be"),
        (CPU, True, SYNTHETIC, "make demo ACCELERATOR=cuda13"),
        (CPU, False, SYNTHETIC, "neither Apple silicon nor CUDA"),
        (BROKEN, True, SYNTHETIC, "libcuda.so.1"),
    ],
)
def test_moshi_speaks_where_mlx_has_a_gpu(device: dict[str, Any], has_card: bool, checkpoint: str, why: str) -> None:
    choice = choose(SETTINGS, None, device, has_card)
    assert choice.checkpoint == checkpoint
    assert why in choice.why


def test_who_is_asked_for_speaks() -> None:
    assert choose(SETTINGS, "synthetic:parrot", CPU, False).checkpoint == "synthetic:parrot"


@pytest.mark.parametrize(
    ("checkpoint", "first"), [(SETTINGS.model.checkpoint, ""), (SYNTHETIC, f"MOSHI_CHECKPOINT={SYNTHETIC} ")]
)
def test_it_ends_by_saying_what_to_type_to_talk_to_it(checkpoint: str, first: str) -> None:
    told = talk_yourself(read_settings(moshi_checkpoint=SETTINGS.model.checkpoint, port=8123), checkpoint)
    assert f": {first}moshi-bridge serve," in told
    assert "moshi-bridge talk" in told
    assert "http://127.0.0.1:8123/talk" in told


def test_mlx_says_what_it_computes_on() -> None:
    device = survey_device()
    assert device["is_gpu"] == ("gpu" in device["device"])
    assert device["device_bytes"] > 0
