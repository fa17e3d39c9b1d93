import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from app.simulator.measure import snr_db
from app.simulator.wav import read_audio, write_stereo


def tone(rate_hz: int, seconds: float = 1.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate_hz * seconds)) / rate_hz)


def test_samples_at_our_own_rate_are_read_exactly(tmp_path: Path) -> None:
    samples = np.arange(-32_768, 32_768, 7, dtype=np.int16)
    write_stereo(tmp_path / "a.wav", samples, samples)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), samples)


@pytest.mark.parametrize(("rate_hz", "width", "count"), [(16_000, 2, 1), (24_000, 3, 2), (44_100, 2, 2)])
def test_any_rate_width_and_channels_become_8_khz_mono(tmp_path: Path, rate_hz: int, width: int, count: int) -> None:
    channels = np.tile(tone(rate_hz)[:, None], count)
    soundfile.write(str(tmp_path / "a.wav"), channels, rate_hz, f"PCM_{8 * width}")
    samples = read_audio(tmp_path / "a.wav")
    assert len(samples) == 8_000
    expected = np.round(tone(8_000) * 32_767).astype(np.int16)
    assert snr_db(expected, samples, max_latency_s=0.0) > 60


def test_the_shorter_channel_ends_in_silence(tmp_path: Path) -> None:
    write_stereo(tmp_path / "a.wav", np.array([1, 2, 3], np.int16), np.array([-1], np.int16))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8_000, 2)
        frames = np.frombuffer(file.readframes(9), "<i2").reshape(-1, 2)
    assert frames.tolist() == [[1, -1], [2, 0], [3, 0]]


def test_what_is_no_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"a\.wav: .+"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(FileNotFoundError, match=r"b\.wav"):
        read_audio(tmp_path / "b.wav")
