import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.telemetry.recording import flac
from app.telemetry.recording.flac import AudioFileError, encode_flac
from app.telemetry.recording.recording_file import RecordingFile
from app.telemetry.recording.timeline import Piece, Side
from app.telemetry.recording.waveform import read_waveform

NAME = "20260102T120000Z-CA1.wav"


def write(folder: Path, caller: bytes, moshi: bytes) -> Path:
    """Leave the WAV file of a call."""
    file = RecordingFile(folder / NAME)
    file.write([Piece(Side.CALLER, 0, caller), Piece(Side.MOSHI, 0, moshi)])
    file.close()
    return folder / NAME


def noise(samples: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, samples, np.uint8).tobytes()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_flac_has_the_same_samples_and_replaces_the_wav_file(tmp_path: Path) -> None:
    caller, moshi = noise(200_000, 1), noise(200_000, 2)
    made = encode_flac(write(tmp_path, caller, moshi))
    assert made
    samples, _ = soundfile.read(made, dtype="int16")
    assert np.array_equal(samples, np.stack([mulaw.decode(caller), mulaw.decode(moshi)], axis=1))
    assert left(tmp_path) == [made.name]


def test_an_empty_recording_is_deleted(tmp_path: Path) -> None:
    assert encode_flac(write(tmp_path, b"", b"")) is None
    (tmp_path / NAME).touch()
    assert encode_flac(tmp_path / NAME) is None, "killed before its header was written"
    assert left(tmp_path) == []


def test_what_was_forgotten_meanwhile_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = flac._encode

    def encode_and_forget(source: Path, target: Path) -> None:
        encode(source, target)
        source.unlink()

    monkeypatch.setattr(flac, "_encode", encode_and_forget)
    assert encode_flac(write(tmp_path, noise(800, 1), noise(800, 2))) is None
    assert left(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_on_a_full_disk_the_wav_file_stays_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, noise(200_000, 1), noise(200_000, 2))
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *how: os_open("/dev/full" if ".part" in str(path) else path, *how))
    with pytest.raises((AudioFileError, OSError)):
        encode_flac(path)
    assert left(tmp_path) == [NAME]
    assert soundfile.info(path).frames == 200_000


@pytest.mark.parametrize("ask", [encode_flac, lambda path: read_waveform(path, 10)])
def test_a_file_that_is_no_audio_is_named(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    (tmp_path / NAME).write_bytes(b"not a sound" * 10)
    with pytest.raises(AudioFileError, match="20260102T120000Z-CA1"):
        ask(tmp_path / NAME)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 5))
def test_a_waveform_has_the_extremes_of_equal_parts(tmp_path: Path, samples: int, buckets: int, seed: int) -> None:
    (tmp_path / NAME).unlink(missing_ok=True)
    caller, moshi = noise(samples, seed), noise(samples, seed + 1)
    found = read_waveform(write(tmp_path, caller, moshi), buckets)
    wanted = min(buckets, samples)
    assert found.low.shape == found.high.shape == (wanted, 2)
    bucket = np.arange(samples) * wanted // samples
    for side, payload in enumerate((caller, moshi)):
        line = mulaw.decode(payload) / 32_768
        for number in range(wanted):
            part = line[bucket == number]
            assert found.low[number, side] == pytest.approx(part.min(), abs=1e-4)
            assert found.high[number, side] == pytest.approx(part.max(), abs=1e-4)


def test_a_waveform_of_many_blocks_is_that_of_one(tmp_path: Path) -> None:
    caller = noise(150_000, 3)
    found = read_waveform(write(tmp_path, caller, caller), 7)
    line = mulaw.decode(caller) / 32_768
    bucket = np.arange(150_000) * 7 // 150_000
    assert found.high[:, 0] == pytest.approx([line[bucket == number].max() for number in range(7)], abs=1e-4)
    assert found.as_json()["seconds"] == 18.75
