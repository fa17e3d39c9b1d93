import math

import numpy as np
import pytest

from app.audio import mulaw
from app.calls.idle import QUIET, IdleLimit

SILENCE = bytes([mulaw.SILENCE]) * 160


def packet(peak: int) -> bytes:
    samples = np.zeros(160, np.int16)
    samples[80] = peak
    return mulaw.encode(samples)


def test_a_caller_who_says_nothing_is_idle_when_the_time_is_up() -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.add(SILENCE, 120.0)
    assert idle.due_s == 130.0


@pytest.mark.parametrize("peak", [2_000, -2_000, 32_000])
def test_one_sound_begins_the_time_anew(peak: int) -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.add(packet(peak), 120.0)
    assert idle.due_s == 150.0


@pytest.mark.parametrize("peak", [0, 8, -8, QUIET // 2, -QUIET // 2])
def test_the_noise_of_an_idle_line_is_no_sound(peak: int) -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.add(packet(peak), 120.0)
    assert idle.due_s == 130.0


def test_both_zeros_of_mu_law_are_silence() -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.add(bytes([0xFF, 0x7F]) * 80, 120.0)
    assert idle.due_s == 130.0


def test_a_key_is_a_sign_of_life() -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.reset(110.0)
    assert idle.due_s == 140.0


def test_without_a_limit_nobody_is_idle() -> None:
    idle = IdleLimit(0.0, now=100.0)
    idle.add(packet(9_000), 120.0)
    assert idle.due_s == math.inf
