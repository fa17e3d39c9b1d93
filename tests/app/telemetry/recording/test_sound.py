import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.telemetry.recording import sound as sound_module
from app.telemetry.recording.recording_file import RecordingFile
from app.telemetry.recording.sound import SoundError, finish, length_of
from app.telemetry.recording.timeline import Piece, Side
from app.telemetry.recording.waveform import read_waveform

NAME = "20260102T120000Z-CA1.wav"


def tape_of(folder: Path, caller: bytes, moshi: bytes) -> Path:
    tape = RecordingFile(folder / NAME)
    tape.write([Piece(Side.CALLER, 0, caller), Piece(Side.MOSHI, 0, moshi)])
    tape.close()
    return folder / NAME


def noise(samples: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, samples, np.uint8).tobytes()


def test_nothing_is_lost_on_the_way_to_flac(tmp_path: Path) -> None:
    caller, moshi = noise(200_000, 1), noise(200_000, 2)
    flac = finish(tape_of(tmp_path, caller, moshi))
    assert flac
    samples, _ = soundfile.read(flac, dtype="int16")
    assert np.array_equal(samples, np.stack([mulaw.decode(caller), mulaw.decode(moshi)], axis=1))
    assert [path.name for path in tmp_path.iterdir()] == [flac.name]


def test_an_empty_tape_is_deleted(tmp_path: Path) -> None:
    assert finish(tape_of(tmp_path, b"", b"")) is None
    (tmp_path / NAME).touch()
    assert finish(tmp_path / NAME) is None, "killed before its header was written"
    assert list(tmp_path.iterdir()) == []


def test_what_was_forgotten_meanwhile_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = tape_of(tmp_path, noise(800, 1), noise(800, 2))
    encode = sound_module._encode

    def encode_and_forget(source: Path, target: Path) -> None:
        encode(source, target)
        source.unlink()

    monkeypatch.setattr(sound_module, "_encode", encode_and_forget)
    assert finish(tape) is None
    assert list(tmp_path.iterdir()) == []


def test_a_tape_that_cannot_be_finished_stays_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk is full."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    tape = tape_of(tmp_path, noise(200_000, 1), noise(200_000, 2))
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *how: os_open("/dev/full" if ".part" in str(path) else path, *how))
    with pytest.raises((SoundError, OSError)):
        finish(tape)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert length_of(tape) == (200_000, 8_000)


def test_what_is_no_sound_is_told(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a sound" * 10)
    for ask in (finish, length_of, lambda path: read_waveform(path, 10)):
        with pytest.raises(SoundError, match="20260102T120000Z-CA1"):
            ask(tmp_path / NAME)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 5))
def test_the_outline_is_that_of_the_samples(tmp_path: Path, samples: int, buckets: int, seed: int) -> None:
    (tmp_path / NAME).unlink(missing_ok=True)
    caller, moshi = noise(samples, seed), noise(samples, seed + 1)
    outline = read_waveform(tape_of(tmp_path, caller, moshi), buckets)
    wanted = min(buckets, samples)
    assert outline.low.shape == outline.high.shape == (wanted, 2)
    bucket = np.arange(samples) * wanted // samples
    for side, payload in enumerate((caller, moshi)):
        line = mulaw.decode(payload) / 32_768
        for number in range(wanted):
            part = line[bucket == number]
            assert outline.low[number, side] == pytest.approx(part.min(), abs=1e-4)
            assert outline.high[number, side] == pytest.approx(part.max(), abs=1e-4)


def test_the_outline_of_many_blocks_is_that_of_one(tmp_path: Path) -> None:
    caller = noise(150_000, 3)
    outline = read_waveform(tape_of(tmp_path, caller, caller), 7)
    line = mulaw.decode(caller) / 32_768
    bucket = np.arange(150_000) * 7 // 150_000
    assert outline.high[:, 0] == pytest.approx([line[bucket == number].max() for number in range(7)], abs=1e-4)
    assert outline.as_json()["seconds"] == 18.75
