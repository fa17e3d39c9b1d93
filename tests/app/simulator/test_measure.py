import numpy as np
import pytest
from numpy.typing import NDArray

from app.audio import mulaw
from app.simulator.measure import level_dbfs, mouth_to_ear_ms, snr_db, window_snr_db
from app.simulator.wav import Samples


def speech_like(seconds: float, seed: int = 1) -> NDArray[np.float64]:
    """Noise in the telephone band whose loudness comes and goes, as int16 values."""
    length = round(seconds * 8_000)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / 8_000)
    spectrum[(hertz < 300) | (hertz > 3_200)] = 0
    noise = np.fft.irfft(spectrum, length)
    loudness = (1.2 + np.sin(2 * np.pi * 3 * np.arange(length) / 8_000)) / 2.2
    signal: NDArray[np.float64] = 12_000 * loudness * noise / np.abs(noise).max()
    return signal


def delayed(signal: NDArray[np.float64], samples: float) -> NDArray[np.float64]:
    """Shift by any number of samples, in the frequency domain, with room at the end."""
    padded = np.pad(signal, (0, 4_000))
    turns = np.fft.rfftfreq(len(padded))
    return np.fft.irfft(np.fft.rfft(padded) * np.exp(-2j * np.pi * turns * samples), len(padded))


def as_samples(signal: NDArray[np.float64]) -> Samples:
    return np.rint(signal).astype(np.int16)


@pytest.mark.parametrize("delay_samples", [0, 1, 664, 2_001])
def test_the_delay_is_found_to_the_sample(delay_samples: int) -> None:
    said = as_samples(speech_like(4))
    heard = np.pad(said, (delay_samples, 0))
    delay = mouth_to_ear_ms(said, heard)
    assert [window.at_s for window in delay.windows] == ([0, 1, 2, 3])
    assert delay.p50_ms == delay.p99_ms == delay_samples / 8
    assert all(window.match > 0.99 for window in delay.windows)


def test_where_the_latency_changes_it_and_the_noise_are_measured_window_by_window() -> None:
    said = as_samples(speech_like(4))
    line = mulaw.decode(mulaw.encode(said))
    heard = np.concatenate([np.zeros(800, np.int16), line[:16_000], np.zeros(400, np.int16), line[16_000:]])
    delay = mouth_to_ear_ms(said, heard)
    assert [window.latency_ms for window in delay.windows] == [100, 100, 150, 150]
    assert snr_db(said, heard) < 5
    fidelity = window_snr_db(said, heard, delay)
    assert len(fidelity) == 4
    assert all(35 < snr < 42 for snr in fidelity), "what mu-law costs"


def test_silence_and_strangers_say_nothing() -> None:
    said = as_samples(speech_like(2))
    assert mouth_to_ear_ms(np.zeros(16_000, np.int16), said).windows == ()
    assert mouth_to_ear_ms(said, as_samples(speech_like(3, seed=2))).windows == ()
    assert mouth_to_ear_ms(said, np.zeros(0, np.int16)).windows == ()
    assert mouth_to_ear_ms(said, np.zeros(9_000, np.int16)).p50_ms is None


def test_a_perfect_line_has_no_noise_but_rounding() -> None:
    said = as_samples(speech_like(3))
    assert snr_db(said, said) > 200
    assert snr_db(said, as_samples(delayed(said.astype(np.float64), 70 / 3))) > 60


@pytest.mark.parametrize("noise_db", [20, 40])
def test_noise_is_measured_whatever_the_delay_and_the_gain(noise_db: float) -> None:
    said = speech_like(3)
    noise = speech_like(3.5, seed=2)
    noise *= 0.5 * np.linalg.norm(said) / np.linalg.norm(noise) * 10 ** (-noise_db / 20)
    heard = 0.5 * delayed(said, 663.33) + noise
    assert snr_db(as_samples(said), as_samples(heard)) == pytest.approx(noise_db, abs=1)


def test_levels_are_below_full_scale() -> None:
    assert level_dbfs(np.zeros(100, np.int16)) == -120
    assert level_dbfs(np.zeros(0, np.int16)) == -120
    assert level_dbfs(np.full(100, -32_768, np.int16)) == pytest.approx(0)
    assert level_dbfs(np.full(100, 3_277, np.int16)) == pytest.approx(-20, abs=0.01)
