import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from app.audio import mulaw
from app.telemetry.recording import audio_files
from app.telemetry.recording.audio_files import AudioFileError, RecordingFile, encode_flac, read_waveform
from app.telemetry.recording.timeline import Piece, Side

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
    encode = audio_files._encode

    def encode_and_forget(source: Path, target: Path) -> None:
        encode(source, target)
        source.unlink()

    monkeypatch.setattr(audio_files, "_encode", encode_and_forget)
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


@pytest.mark.parametrize(("samples", "buckets"), [(1, 400), (300, 7), (300, 300), (150_000, 7)], ids=str)
def test_a_waveform_has_the_extremes_of_equal_parts(tmp_path: Path, samples: int, buckets: int) -> None:
    """The last one is read in several blocks."""
    payloads = {"caller": noise(samples, 1), "moshi": noise(samples, 2)}
    found: Any = read_waveform(write(tmp_path, *payloads.values()), buckets)
    wanted = min(buckets, samples)
    assert (found["buckets"], found["seconds"]) == (wanted, pytest.approx(samples / 8_000, abs=0.001))
    bucket = np.arange(samples) * wanted // samples
    for side, payload in payloads.items():
        parts = [mulaw.decode(payload)[bucket == number] / 32_768 for number in range(wanted)]
        assert found[side]["min"] == pytest.approx([part.min() for part in parts], abs=1e-4)
        assert found[side]["max"] == pytest.approx([part.max() for part in parts], abs=1e-4)
