"""Calls side by side: whoever joins, leaves, skips or begins anew, each gets what it would get alone."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workers.codec.conftest import SLOTS
from tests.workers.codec.sounds import KINDS, codes, sound
from workers.codec.choose import make_decoder, make_encoder
from workers.codec.codec import CodecError
from workers.codec.mimi import MimiDecoder, MimiEncoder
from workers.codec.numpy_ops import PlainMatrix, TiledMatrix, has_openblas
from workers.codec.numpy_step import NumpyStep
from workers.codec.weights import load_decoder, load_encoder
from workers.messages import Slot

STEPS = 7
VOICES = 4

Moves = list[dict[int, int | None]]
"""What happens in each step: the slots that advance, and the voice of a call that begins there then, or None."""

moves = st.lists(
    st.dictionaries(st.integers(0, SLOTS - 1), st.none() | st.integers(0, VOICES - 1), max_size=SLOTS),
    min_size=2,
    max_size=STEPS,
)

Row = NDArray[Any]
Run = Callable[[dict[Slot, Row]], dict[Slot, Any]]


@cache
def said(voice: int) -> Row:
    return sound(KINDS[voice], STEPS, seed=voice)


@cache
def answered(voice: int) -> Row:
    return codes(STEPS, seed=voice)


class Alone:
    """What each voice's call brings when it has the codec to itself."""

    def __init__(self, coder: MimiEncoder | MimiDecoder, run: Run, frames: Callable[[int], Row]) -> None:
        coder.open(Slot(0))
        self.frames, self._results = frames, {}
        for voice in range(VOICES):
            coder.open(Slot(0))
            self._results[voice] = [run({Slot(0): frame})[Slot(0)] for frame in frames(voice)]

    def compare(self, coder: MimiEncoder | MimiDecoder, run: Run, steps: Moves, tolerance: float) -> None:
        """Play the moves and hold each result against the same frame of the same voice alone."""
        calls: dict[Slot, tuple[int, int]] = {}
        for step in steps:
            for slot, voice in step.items():
                if voice is not None or Slot(slot) not in calls:
                    coder.open(Slot(slot))
                    calls[Slot(slot)] = (voice or 0, 0)
            advancing = [Slot(slot) for slot in step]
            results = run({slot: self.frames(calls[slot][0])[calls[slot][1]] for slot in advancing})
            assert list(results) == advancing
            for slot in advancing:
                voice, frame = calls[slot]
                wanted = self._results[voice][frame]
                assert np.allclose(results[slot], wanted, rtol=0, atol=tolerance)
                calls[slot] = voice, frame + 1


@pytest.fixture(scope="module")
def codes_alone(encoder: MimiEncoder) -> Alone:
    return Alone(encoder, encoder.encode, said)


@pytest.fixture(scope="module")
def sound_alone(decoder: MimiDecoder) -> Alone:
    return Alone(decoder, decoder.decode, answered)


few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(steps=moves)
def test_codes_in_company(encoder: MimiEncoder, codes_alone: Alone, steps: Moves) -> None:
    codes_alone.compare(encoder, encoder.encode, steps, tolerance=0)


@few
@given(steps=moves)
def test_sound_in_company(decoder: MimiDecoder, sound_alone: Alone, steps: Moves) -> None:
    sound_alone.compare(decoder, decoder.decode, steps, tolerance=1e-6 if has_openblas() else 1e-5)


STORY: Moves = [{0: 1, 2: 0}, {0: None}, {0: None, 1: 3, 2: None}, {2: 2, 1: None}, {0: None, 1: None, 2: None}]


def test_company_on_two_threads(mimi: Path, codes_alone: Alone) -> None:
    encoder = make_encoder("numpy", mimi, SLOTS, threads=2)
    codes_alone.compare(encoder, encoder.encode, STORY, tolerance=0)


OTHER_MATRIX = PlainMatrix if has_openblas() else TiledMatrix
"""The layout of weights that the other tests do not use on this machine."""


def test_codes_are_the_same_however_the_weights_are_laid_out(mimi: Path, codes_alone: Alone) -> None:
    encoder = MimiEncoder(NumpyStep(load_encoder(mimi), SLOTS, matrix=OTHER_MATRIX))
    codes_alone.compare(encoder, encoder.encode, STORY, tolerance=0)


@pytest.mark.slow
def test_sound_is_the_same_however_the_weights_are_laid_out(mimi: Path, sound_alone: Alone) -> None:
    decoder = MimiDecoder(NumpyStep(load_decoder(mimi), SLOTS, matrix=OTHER_MATRIX))
    sound_alone.compare(decoder, decoder.decode, STORY, tolerance=1e-5)


@pytest.mark.slow
def test_codes_in_company_on_mlx(mimi: Path, codes_alone: Alone) -> None:
    encoder = make_encoder("mlx", mimi, SLOTS)
    codes_alone.compare(encoder, encoder.encode, STORY, tolerance=0)


@pytest.mark.slow
def test_sound_in_company_on_mlx(mimi: Path, sound_alone: Alone) -> None:
    decoder = make_decoder("mlx", mimi, SLOTS)
    sound_alone.compare(decoder, decoder.decode, STORY, tolerance=1e-5)


def test_the_first_frame_owes_nothing_to_the_last_call(encoder: MimiEncoder) -> None:
    def first_frames() -> list[list[int]]:
        encoder.open(Slot(2))
        return [np.array(encoder.encode({Slot(2): frame})[Slot(2)]).tolist() for frame in said(0)[:3]]

    before = first_frames()
    for frame in said(1):
        encoder.encode({Slot(2): frame})
    assert first_frames() == before


def test_a_call_that_came_to_something_else_than_numbers_ends_alone(encoder: MimiEncoder, codes_alone: Alone) -> None:
    too_loud = np.full(1_920, 3e38, np.float32)
    codes_alone.compare(encoder, lambda frames: ruined(encoder, frames, too_loud), [{0: 0, 2: 1}, {2: None}], 0)
    codes_alone.compare(encoder, encoder.encode, STORY, 0)


def ruined(encoder: MimiEncoder, frames: dict[Slot, Row], pcm: Row) -> dict[Slot, Any]:
    """Encode with slot 1 in company, whose samples overflow."""
    encoder.open(Slot(1))
    results: dict[Slot, Any] = encoder.encode(frames | {Slot(1): pcm})
    assert isinstance(results.pop(Slot(1)), CodecError)
    return results
