import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.limits import QUIET, TAKEOVER_MARGIN_S, CallLimits, IdleLimit
from workers.messages import FRAME_S

MARGIN_S = TAKEOVER_MARGIN_S + FIRST_JITTER_S


def takeover_s(greeting_frames: int, processing_s: float, jitter_s: float = FIRST_JITTER_S) -> float:
    return CallLimits(greeting_frames, 20.0, 60.0, processing_s, jitter_s).takeover_s


@pytest.mark.parametrize(
    ("greeting_frames", "processing_s", "expected_s"),
    [
        (0, 0.0, 0.0),  # no greeting: at once
        (1, 0.0, 0.0),  # a greeting whose only frame is silent
        (2, 0.0, 0.0),  # a greeting shorter than a frame and the margin
        (3, 0.0, 0.16 - 0.08 - MARGIN_S),
        (25, 0.0, 1.92 - 0.08 - MARGIN_S),
        (25, 0.1, 1.92 - 0.08 - 0.1 - MARGIN_S),
        (25, 60.0, 0.0),  # slower than any greeting
    ],
)
def test_when_the_caller_takes_over(greeting_frames: int, processing_s: float, expected_s: float) -> None:
    assert takeover_s(greeting_frames, processing_s) == pytest.approx(expected_s)


@given(st.integers(3, 125), st.floats(0, 0.08), st.floats(0, 0.02))
def test_the_first_answer_finds_the_margin_still_unplayed(frames: int, processing_s: float, jitter_s: float) -> None:
    answered_s = takeover_s(frames, processing_s, jitter_s) + FRAME_S + processing_s
    played_s = (frames - 1) * FRAME_S
    assert played_s - answered_s <= TAKEOVER_MARGIN_S + jitter_s + 1e-9
    assert answered_s >= FRAME_S


@pytest.mark.parametrize(
    ("peaks", "due_s"),
    [
        ([0] * 160, 130.0),
        ([0, 8, -8, QUIET // 2, -QUIET // 2], 130.0),  # the noise of an idle line
        ([0, 2_000, 0], 150.0),
        ([-2_000], 150.0),
        ([32_000], 150.0),
    ],
)
def test_a_caller_is_idle_when_no_sound_has_come_for_so_long(peaks: list[int], due_s: float) -> None:
    idle = IdleLimit(30.0, now=100.0)
    idle.add(mulaw.encode(np.array(peaks, np.int16)), 120.0)
    assert idle.due_s == due_s
    idle.reset(125.0)
    assert idle.due_s == 155.0, "a key is a sign of life"


def test_both_zeros_of_mu_law_are_silence_and_without_a_limit_nobody_is_idle() -> None:
    idle, unlimited = IdleLimit(30.0, now=100.0), IdleLimit(0.0, now=100.0)
    idle.add(bytes([0xFF, 0x7F]) * 80, 120.0)
    assert (idle.due_s, unlimited.due_s) == (130.0, math.inf)
