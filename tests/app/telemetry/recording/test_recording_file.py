import fcntl
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.telemetry.recording.audio_files import RecordingFile, wav_header
from app.telemetry.recording.timeline import Piece, Side


def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """Read a file as libsndfile does."""
    samples, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    assert rate_hz == 8_000
    return np.asarray(samples, np.int16)


def test_the_header_is_the_one_that_libsndfile_writes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 2), np.int16), 8_000, "ULAW")
    assert (tmp_path / "a.wav").read_bytes() == wav_header(10) + bytes([mulaw.SILENCE]) * 20


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.lists(st.builds(Piece, st.sampled_from(Side), st.integers(0, 3_000), st.binary(max_size=500)), max_size=4),
        max_size=6,
    )
)
def test_it_can_be_played_after_every_write_and_holds_what_was_written_last(
    tmp_path: Path, turns: list[list[Piece]]
) -> None:
    path = tmp_path / "call.wav"
    path.unlink(missing_ok=True)
    file, line = RecordingFile(path), np.full((4_000, 2), mulaw.SILENCE, np.uint8)
    end = 0
    for pieces in turns:
        file.write(pieces)
        for piece in pieces:
            line[piece.begin : piece.end, piece.side] = np.frombuffer(piece.payload, np.uint8)
            end = max(end, piece.end)
        wanted = np.stack([mulaw.decode(line[:end, side].tobytes()) for side in Side], axis=1)
        assert np.array_equal(read(path), wanted)
    file.close()


@pytest.mark.parametrize("length", [100, 200, 900])
def test_a_recording_ends_where_the_call_ended(tmp_path: Path, length: int) -> None:
    file = RecordingFile(tmp_path / "call.wav")
    file.write([Piece(Side.MOSHI, 0, b"\x10" * 200)])
    file.end(length)
    file.close()
    sound = read(tmp_path / "call.wav")
    assert len(sound) == length
    assert np.count_nonzero(sound[:, Side.MOSHI]) == min(length, 200)
    assert (tmp_path / "call.wav").stat().st_size == len(wav_header(0)) + 2 * length


def test_nobody_else_may_read_it_and_it_is_locked_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    file = RecordingFile(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    descriptor = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.close()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "call.wav").write_text("another")
    with pytest.raises(FileExistsError):
        RecordingFile(tmp_path / "call.wav")
    assert (tmp_path / "call.wav").read_text() == "another"
