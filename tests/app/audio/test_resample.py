import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from app.audio.resample import FILTERS_S, RATIO, TAPS, Decimator, Interpolator

LENGTH = 240
lengths = st.lists(st.integers(1, LENGTH), max_size=12)


def noise(samples: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def parts(line: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
    """Cut a line after these sizes, as far as it goes; no part is empty."""
    ends = [end for end in np.cumsum(sizes) if end < len(line)]
    return np.split(line, ends)


def response_db(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    _, response = signal.freqz(TAPS.astype(np.float64), worN=hertz, fs=24_000)
    level: NDArray[np.float64] = 20 * np.log10(np.maximum(np.abs(response), 1e-12))
    return level


def test_the_taps_are_the_equiripple_design_that_the_docstring_names() -> None:
    design = signal.remez(71, [0, 3400, 4600, 12_000], [1, 0], weight=[1, 10], fs=24_000)
    np.testing.assert_allclose(TAPS, [*design, 0.0], atol=1e-7)


def test_the_voice_passes_and_what_would_alias_does_not() -> None:
    passed = response_db(np.linspace(0, 3_400, 400))
    stopped = response_db(np.linspace(4_600, 12_000, 900))
    assert np.abs(passed).max() < 0.03
    assert stopped.max() < -71.5


def test_up_is_zero_stuffing_and_one_filter() -> None:
    line = noise(LENGTH)
    whole = signal.upfirdn(RATIO * TAPS.astype(np.float64), line, up=RATIO)[: RATIO * LENGTH]
    np.testing.assert_allclose(Interpolator().push(line), whole, atol=1e-6)


def test_down_is_one_filter_and_every_third_sample() -> None:
    line = noise(RATIO * LENGTH)
    whole = signal.lfilter(TAPS.astype(np.float64), [1.0], line)[1::RATIO]
    np.testing.assert_allclose(Decimator().push(line), whole, atol=1e-6)


@given(lengths)
@settings(deadline=None)
def test_any_split_is_filtered_to_the_same_samples(sizes: list[int]) -> None:
    line, interpolator, decimator = noise(RATIO * LENGTH), Interpolator(), Decimator()
    up = [interpolator.push(part) for part in parts(line, sizes)]
    down = [decimator.push(part) for part in parts(line, [RATIO * size for size in sizes])]
    np.testing.assert_allclose(np.concatenate(up), Interpolator().push(line), atol=1e-6)
    np.testing.assert_allclose(np.concatenate(down), Decimator().push(line), atol=1e-6)
    assert {one.dtype for one in (*up, *down)} == {np.dtype(np.float32)}


def test_up_and_down_again_delays_by_23_samples_exactly() -> None:
    click = np.zeros(100, np.float32)
    click[0] = 1
    back = Decimator().push(Interpolator().push(click))
    assert int(np.argmax(back)) == 23 == FILTERS_S * 8_000
    around = back[: 2 * 23 + 1]
    np.testing.assert_allclose(around, around[::-1], atol=1e-7)


@pytest.mark.parametrize(("level", "sample"), [(1.5, 32_767), (-2, -32_768), (1e6, 32_767), (-1e6, -32_768)])
def test_samples_that_are_too_loud_saturate_and_do_not_wrap(level: float, sample: int) -> None:
    assert set(Decimator().push_int16(np.full(1_920, level, np.float32))[72:].tolist()) == {sample}


@pytest.mark.parametrize("samples", [1, 2, 4, 1_919])
def test_a_third_of_a_sample_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        Decimator().push(noise(samples))
