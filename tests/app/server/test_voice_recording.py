from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.server.voice_recording import RecordingError, at_loudness, read_recording


def tone(seconds: float, rate_hz: int, peak: float = 0.1, hz: float = 997.0) -> np.ndarray:
    return peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def test_a_recording_becomes_whole_frames_at_24_khz(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    stereo = np.stack([tone(1, 16_000), tone(1, 16_000)], axis=1)
    soundfile.write(path, stereo, 16_000)
    pcm = read_recording(path)
    assert pcm.shape == (13, 1920)
    assert pcm.dtype == np.float32
    assert not pcm.reshape(-1)[24_000:].any()


def test_a_sine_of_997_hz_has_the_loudness_that_the_standard_gives_it() -> None:
    """ITU-R BS.1770: a full-scale sine of 997 Hz in one channel is -3.01 LKFS, so -24 is a peak of -20.99 dB."""
    pcm = at_loudness(tone(3, 24_000).astype(np.float32))
    assert 20 * np.log10(np.abs(pcm).max()) == pytest.approx(-20.99, abs=0.1)


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (np.zeros(0), "lasts 0.0 s"),
        (tone(0.3, 8_000), "lasts 0.3 s"),
        (np.zeros(600 * 8_000), "lasts 600.0 s"),
        (np.zeros(8_000), "is silent"),
    ],
)
def test_what_is_too_short_too_long_or_silent_is_refused(tmp_path: Path, samples: np.ndarray, error: str) -> None:
    path = tmp_path / "voice.wav"
    soundfile.write(path, samples, 8_000)
    with pytest.raises(RecordingError, match=error):
        read_recording(path)


@pytest.mark.parametrize(("value", "at"), [(np.nan, -1), (np.inf, 0)])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float, at: int) -> None:
    path, samples = tmp_path / "voice.wav", tone(1.0, 8_000)
    samples[at] = value
    soundfile.write(path, samples, 8_000, subtype="FLOAT")
    with pytest.raises(RecordingError, match="no numbers"):
        read_recording(path)


def test_samples_far_above_full_scale_are_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.full((8_000, 8), 3e38) * tone(1.0, 8_000)[:, None], 8_000, subtype="FLOAT")
    assert np.isfinite(read_recording(path)).all()


def test_a_small_file_of_many_samples_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.zeros((4_000_000, 8), np.int16), 200_000, format="FLAC")
    assert path.stat().st_size < 1_000_000
    with pytest.raises(RecordingError, match="more than 25,000,000 samples"):
        read_recording(path)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    path.write_text("a text")
    with pytest.raises(RecordingError, match="is no recording"):
        read_recording(path)
