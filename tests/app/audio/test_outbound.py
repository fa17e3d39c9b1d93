import numpy as np
import pytest
from numpy.typing import NDArray

from app.audio import mulaw
from app.audio.outbound import Outbound
from app.audio.resample import LOOP_DELAY_SAMPLES, Decimator, Interpolator

FRAME = 1_920


def tone(frames: int, level: float, hertz: float = 440.0) -> NDArray[np.float32]:
    return (level * np.sin(2 * np.pi * hertz * np.arange(frames * FRAME) / 24_000)).astype(np.float32)


def heard(line: NDArray[np.float32]) -> NDArray[np.int16]:
    outbound = Outbound()
    return np.concatenate([outbound.push(frame) for frame in line.reshape(-1, FRAME)])


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 30.0])
def test_a_frame_is_640_samples_whatever_it_holds(level: float) -> None:
    samples = Outbound().push(tone(1, level))
    assert samples.shape == (640,)
    assert samples.dtype == np.int16


def test_frames_are_joined_without_a_seam() -> None:
    line = tone(6, 0.5)
    samples = np.rint(Decimator().push(line) * 32_768).astype(np.int16)
    np.testing.assert_array_equal(heard(line), samples)


@pytest.mark.parametrize("level", [1.0, 1.5, 4.0, 1e6])
def test_what_is_too_loud_saturates_and_never_wraps(level: float) -> None:
    line = tone(4, level)
    wanted = Decimator().push(line)
    loud = np.abs(wanted) > 0.05
    assert (np.sign(heard(line)) == np.sign(wanted))[loud].all()
    assert np.abs(mulaw.decode(mulaw.encode(heard(line))).astype(int)).max() <= 32_124


def test_full_scale_in_both_directions_is_the_loudest_sample() -> None:
    steady = np.ones(4 * FRAME, np.float32) * 2
    assert heard(steady)[640:].tolist() == [32_767] * 1_920
    assert heard(-steady)[640:].tolist() == [-32_768] * 1_920


def test_the_callers_voice_round_the_loop_is_his_voice_23_samples_later() -> None:
    time_s = np.arange(8 * 640) / 8_000
    said = (8_000 * np.sin(2 * np.pi * 700 * time_s)).astype(np.int16)
    interpolator = Interpolator()
    wide = [interpolator.push(block.astype(np.float32) / np.float32(32_768)) for block in said.reshape(-1, 640)]
    back = heard(np.concatenate(wide))
    assert len(back) == len(said)
    difference = back[640:].astype(int) - said[640 - LOOP_DELAY_SAMPLES : -LOOP_DELAY_SAMPLES]
    assert np.abs(difference).max() < 8_000 * 0.005
