"""Calls side by side: whoever joins, leaves, skips or begins anew, each gets what it would get alone."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.codec.conftest import SLOTS, STAGES, Codecs
from tests.workers.codec.sounds import KINDS, codes, sound
from workers.codec.choose import Library, fastest_library, library_for, make_codec
from workers.codec.codec import CodecError, Row, silence_codes
from workers.codec.mimi import Mimi
from workers.codec.numpy_step import NumpyStep, TiledMatrix, has_openblas, plain_matrix
from workers.codec.stages import EncoderStage, Onward
from workers.codec.weights import load
from workers.messages import Codes, Epoch, Frame, Open, PreparePrompt, Slot, Stage

STEPS = 7
VOICES = 4
A, B = Slot(0), Slot(1)
GOOD = {Stage.ENCODE: sound("speech", 1)[0], Stage.DECODE: codes(1)[0]}
NOT_A_NUMBER = np.where(np.arange(1_920) == 7, np.float32("nan"), GOOD[Stage.ENCODE]).astype(np.float32)
TOLERANCE = {Stage.ENCODE: 0.0, Stage.DECODE: 1e-5}

Alone = dict[Stage, list[list[Row]]]
"""What each voice's call brings when it has the codec to itself."""
Moves = list[dict[int, int | None]]
"""What happens in each step: the slots that advance, and the voice of a call that begins there then, or None."""

moves = st.lists(
    st.dictionaries(st.integers(0, SLOTS - 1), st.none() | st.integers(0, VOICES - 1), max_size=SLOTS),
    min_size=2,
    max_size=STEPS,
)
STORY: Moves = [{0: 1, 2: 0}, {0: None}, {0: None, 1: 3, 2: None}, {2: 2, 1: None}, {0: None, 1: None, 2: None}]
each_stage = pytest.mark.parametrize("stage", STAGES)


@cache
def frames_of(stage: Stage, voice: int) -> Row:
    return codes(STEPS, seed=voice) if stage is Stage.DECODE else sound(KINDS[voice], STEPS, seed=voice)


def run(codec: Mimi, frame: Row, slot: Slot = A) -> Row:
    result = codec.run({slot: frame})[slot]
    assert not isinstance(result, CodecError)
    return result.copy()


@pytest.fixture(scope="module")
def alone(codecs: Codecs) -> Alone:
    def call(stage: Stage, voice: int) -> list[Row]:
        codecs[stage].open(A)
        return [run(codecs[stage], frame) for frame in frames_of(stage, voice)]

    return {stage: [call(stage, voice) for voice in range(VOICES)] for stage in STAGES}


def compare(codec: Mimi, stage: Stage, alone: Alone, steps: Moves, tolerance: float) -> None:
    """Play the moves and hold each result against the same frame of the same voice alone."""
    calls: dict[Slot, tuple[int, int]] = {}
    for step in steps:
        for slot, voice in step.items():
            if voice is not None or Slot(slot) not in calls:
                codec.open(Slot(slot))
                calls[Slot(slot)] = (voice or 0, 0)
        results = codec.run({Slot(slot): frames_of(stage, calls[Slot(slot)][0])[calls[Slot(slot)][1]] for slot in step})
        assert list(results) == list(step)
        for slot, result in results.items():
            voice, frame = calls[slot]
            assert np.allclose(np.array(result), alone[stage][voice][frame], rtol=0, atol=tolerance)
            calls[slot] = voice, frame + 1


@each_stage
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=moves)
def test_in_company(codecs: Codecs, alone: Alone, stage: Stage, steps: Moves) -> None:
    compare(codecs[stage], stage, alone, steps, 1e-6 * (stage is Stage.DECODE) if has_openblas() else TOLERANCE[stage])


def on_two_threads(stage: Stage, mimi: Path) -> Mimi:
    return make_codec(stage, "numpy", mimi, SLOTS, threads=2)


def laid_out_otherwise(stage: Stage, mimi: Path) -> Mimi:
    """With the layout of weights that the other tests do not use on this machine."""
    return Mimi(
        stage, NumpyStep(stage, load(stage, mimi), SLOTS, matrix=plain_matrix if has_openblas() else TiledMatrix)
    )


def on_mlx(stage: Stage, mimi: Path) -> Mimi:
    return make_codec(stage, "mlx", mimi, SLOTS)


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (on_two_threads, Stage.ENCODE),
        pytest.param(laid_out_otherwise, Stage.ENCODE, marks=pytest.mark.slow),
        pytest.param(laid_out_otherwise, Stage.DECODE, marks=pytest.mark.slow),
        pytest.param(on_mlx, Stage.ENCODE, marks=pytest.mark.slow),
        pytest.param(on_mlx, Stage.DECODE, marks=pytest.mark.slow),
    ],
)
def test_in_company_computed_otherwise(
    mimi: Path, alone: Alone, make: Callable[[Stage, Path], Mimi], stage: Stage
) -> None:
    compare(make(stage, mimi), stage, alone, STORY, TOLERANCE[stage])


def test_a_call_whose_samples_overflow_ends_alone_and_the_next_is_clean(codecs: Codecs, alone: Alone) -> None:
    encoder, silent = codecs[Stage.ENCODE], np.zeros(1_920, np.float32)
    for slot in (A, B):
        encoder.open(slot)
    results = encoder.run({B: np.full(1_920, 3e38, np.float32), A: frames_of(Stage.ENCODE, 0)[0]})
    assert isinstance(results[B], CodecError)
    assert np.array_equal(np.array(results[A]), alone[Stage.ENCODE][0][0])
    compare(encoder, Stage.ENCODE, alone, STORY, 0)
    assert not isinstance(encoder.run({B: silent})[B], CodecError)


@pytest.mark.parametrize(
    ("stage", "slot", "frame", "reason"),
    [
        (Stage.ENCODE, 3, GOOD[Stage.ENCODE], "not one of 3"),
        (Stage.ENCODE, 1, GOOD[Stage.ENCODE][:960], "float32 of shape"),
        (Stage.ENCODE, 1, GOOD[Stage.ENCODE].astype(np.float64), "float64"),
        (Stage.ENCODE, 1, NOT_A_NUMBER, "not a finite number"),
        (Stage.DECODE, 1, np.full(8, 2_048, np.int32), "a code is"),
        (Stage.DECODE, 1, np.full(8, -1, np.int32), "a code is"),
        (Stage.DECODE, 1, np.zeros(7, np.int32), "8 integers"),
        (Stage.DECODE, 1, np.zeros(8, np.float32), "8 integers"),
    ],
)
def test_a_bad_frame_ends_its_call_and_no_other(
    codecs: Codecs, stage: Stage, slot: int, frame: Row, reason: str
) -> None:
    codec = codecs[stage]
    codec.open(A)
    wanted = run(codec, GOOD[stage])
    codec.open(A)
    results = codec.run({A: GOOD[stage], Slot(slot): frame})
    assert np.array_equal(np.array(results[A]), wanted)
    assert isinstance(results[Slot(slot)], CodecError)
    assert reason in str(results[Slot(slot)])


@each_stage
def test_results_stay_and_warming_up_and_nothing_leave_no_trace(codecs: Codecs, stage: Stage) -> None:
    codec = codecs[stage]
    codec.open(A)
    result = codec.run({A: GOOD[stage]})[A]
    before = np.array(result)
    run(codec, frames_of(stage, 1)[1])
    assert np.array_equal(np.array(result), before)
    codec.warm()
    assert codec.run({}) == {}
    assert np.array_equal(run(codec, GOOD[stage]), before)


@each_stage
def test_a_call_takes_eight_mib_a_direction(codecs: Codecs, stage: Stage) -> None:
    assert 7.8 < codecs[stage].bytes_per_call / 2**20 < 8.0


def test_the_codes_of_silence_are_those_of_a_call_that_begins_in_silence(codecs: Codecs) -> None:
    encoder = codecs[Stage.ENCODE]
    silence = silence_codes(encoder, B, 4)
    assert silence.shape == (4, 8)
    encoder.open(B)
    assert [run(encoder, np.zeros(1_920, np.float32), B).tolist() for _ in range(4)] == silence.tolist()


def test_which_library_computes() -> None:
    assert fastest_library("darwin") == "numpy", "on a Mac the codec leaves the GPU to the engine"
    assert [library_for(codec) for codec in ("mlx", "numpy")] == ["mlx", "numpy"]
    with pytest.raises(ValueError, match="CODEC=other"):
        library_for("other")


@pytest.mark.parametrize("library", ["numpy", pytest.param("mlx", marks=pytest.mark.slow)])
def test_a_voice_between_batches_of_calls_is_encoded_as_if_alone(mimi: Path, alone: Alone, library: Library) -> None:
    spare = Slot(2)
    codec = make_codec(Stage.ENCODE, library, mimi, 3)
    stage = EncoderStage(codec, np.zeros((0, 8), np.int32), spare)
    frames = {slot: frames_of(Stage.ENCODE, slot) for slot in (A, B)}
    for slot in frames:
        stage.receive(Open(slot, Epoch(1)))
    stage.receive(PreparePrompt("ada", "", pcm=frames_of(Stage.ENCODE, 2)))
    done: list[Onward] = []
    for seq in range(STEPS):
        for slot, heard in frames.items():
            stage.receive(Frame(slot, Epoch(1), seq, heard[seq]))
        while stage.due_s() is not None:
            done += stage.work()
    (prompt,) = (message for message in done if isinstance(message, PreparePrompt))
    np.testing.assert_array_equal(prompt.codes, alone[Stage.ENCODE][2])
    for slot in frames:
        codes = [message.codes for message in done if isinstance(message, Codes) and message.slot == slot]
        np.testing.assert_array_equal(codes, alone[Stage.ENCODE][slot])
