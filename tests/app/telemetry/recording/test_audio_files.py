import fcntl
import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.telemetry.recording import audio_files
from app.telemetry.recording.audio_files import AudioFileError, RecordingFile, encode_flac, read_waveform, wav_header
from app.telemetry.recording.timeline import Channel, Piece

NAME = "20260102T120000Z-CA1.wav"
RATES_HZ = [8_000, 24_000]


def write(folder: Path, caller: bytes, moshi: bytes, rate_hz: int = 8_000) -> Path:
    """Leave the WAV file of a call."""
    file = RecordingFile(folder / NAME, rate_hz)
    file.write([Piece(Channel.CALLER, 0, caller), Piece(Channel.MOSHI, 0, moshi)])
    file.close()
    return folder / NAME


def noise(samples: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, samples, np.uint8).tobytes()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_flac_has_the_same_samples_and_replaces_the_wav_file(tmp_path: Path, rate_hz: int) -> None:
    caller, moshi = noise(200_000, 1), noise(200_000, 2)
    made = encode_flac(write(tmp_path, caller, moshi, rate_hz))
    assert made
    samples, found_hz = soundfile.read(made, dtype="int16")
    assert found_hz == rate_hz
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
    path = write(tmp_path, noise(800, 1), noise(800, 2))
    for _ in ("while it is encoded", "before"):
        assert encode_flac(path) is None
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


@pytest.mark.parametrize("missing", [1, 200_000])
def test_a_flac_that_lacks_its_end_does_not_replace_the_wav_file(tmp_path: Path, missing: int) -> None:
    """libsndfile reports no error of the last block, which is written when the file is closed."""
    path = write(tmp_path, noise(200_000, 1), noise(200_000, 2))
    shutil.copy(path, tmp_path / "whole.wav")
    whole = encode_flac(tmp_path / "whole.wav")
    assert whole
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size - missing, hard))
    try:
        with pytest.raises((AudioFileError, OSError)):
            encode_flac(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(left(tmp_path)) == [NAME, "whole.flac"]


@pytest.mark.parametrize("ask", [encode_flac, lambda path: read_waveform(path, 10)])
def test_a_file_that_is_no_audio_is_named(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    (tmp_path / NAME).write_bytes(b"not a sound" * 10)
    with pytest.raises(AudioFileError, match="20260102T120000Z-CA1"):
        ask(tmp_path / NAME)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize(("samples", "buckets"), [(1, 400), (300, 7), (300, 300), (150_000, 7)], ids=str)
def test_a_waveform_has_the_extremes_of_equal_parts(tmp_path: Path, samples: int, buckets: int, rate_hz: int) -> None:
    """The last one is read in several blocks."""
    payloads = {"caller": noise(samples, 1), "moshi": noise(samples, 2)}
    found: Any = read_waveform(write(tmp_path, payloads["caller"], payloads["moshi"], rate_hz), buckets)
    wanted = min(buckets, samples)
    assert (found["buckets"], found["seconds"]) == (wanted, pytest.approx(samples / rate_hz, abs=0.001))
    bucket = np.arange(samples) * wanted // samples
    for side, payload in payloads.items():
        parts = [mulaw.decode(payload)[bucket == number] / 32_768 for number in range(wanted)]
        assert found[side]["min"] == pytest.approx([part.min() for part in parts], abs=1e-4)
        assert found[side]["max"] == pytest.approx([part.max() for part in parts], abs=1e-4)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_header_is_the_one_that_libsndfile_writes(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 2), np.int16), rate_hz, "ULAW")
    assert (tmp_path / "a.wav").read_bytes() == wav_header(10, rate_hz) + bytes([mulaw.SILENCE]) * 20


PIECES = st.lists(st.builds(Piece, st.sampled_from(Channel), st.integers(0, 900), st.binary(max_size=99)), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(PIECES, max_size=6))
def test_it_can_be_played_after_every_write_and_holds_what_was_written_last(
    tmp_path: Path, writes: list[list[Piece]]
) -> None:
    (tmp_path / NAME).unlink(missing_ok=True)
    file, line, end = RecordingFile(tmp_path / NAME), np.full((1_000, 2), mulaw.SILENCE, np.uint8), 0
    for pieces in writes:
        file.write(pieces)
        for piece in pieces:
            line[piece.begin : piece.end, piece.channel] = np.frombuffer(piece.payload, np.uint8)
            end = max(end, piece.end)
        found, _ = soundfile.read(file.path, dtype="int16", always_2d=True)
        assert np.array_equal(
            found, np.stack([mulaw.decode(line[:end, channel].tobytes()) for channel in Channel], axis=1)
        )
    file.close()


@pytest.mark.parametrize("length", [100, 200, 900])
def test_a_recording_ends_where_the_call_ended(tmp_path: Path, length: int) -> None:
    file = RecordingFile(tmp_path / NAME)
    file.write([Piece(Channel.MOSHI, 0, b"\x10" * 200)])
    file.end(length)
    file.close()
    sound, _ = soundfile.read(file.path, dtype="int16")
    assert (len(sound), int(np.count_nonzero(sound[:, Channel.MOSHI]))) == (length, min(length, 200))
    assert file.path.stat().st_size == len(wav_header(0)) + 2 * length


def test_nobody_else_may_read_it_it_is_locked_while_it_is_written_and_writes_over_no_other(tmp_path: Path) -> None:
    file = RecordingFile(tmp_path / NAME)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    with file.path.open("r+b") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(FileExistsError):
        RecordingFile(file.path)
