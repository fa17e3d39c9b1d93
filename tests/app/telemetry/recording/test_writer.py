import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.audio import mulaw
from app.calls.record import CallRecord
from app.calls.session import CallSession
from app.telemetry.recording import recorder as recorder_module
from app.telemetry.recording.audio_files import RecordingFile
from app.telemetry.recording.recorder import OUR_FAULT, CallRecorder, StepTokens
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.timeline import Piece, Side
from app.telemetry.recording.tokens import read_tokens
from app.telemetry.recording.writer import RecordingWriter
from app.twilio.events import CallSid
from tests.app.telemetry.recording.test_recorder import ANN, LOUD, NOW, OVER, Talk, new_session
from tests.processes.pipeline import PATIENCE_S

PIECE = Piece(Side.MOSHI, 0, LOUD * 5)


@dataclass(frozen=True)
class Begin:
    """Begins recordings."""

    writer: RecordingWriter

    def __call__(self, session: CallSession) -> CallRecorder:
        recorder = self.writer.record(session, False)
        assert recorder
        return recorder


@contextlib.asynccontextmanager
async def writing(folder: Path, days: int = 0) -> AsyncIterator[Begin]:
    """A writer at work; yields what begins a recording. At the end everything has been written and finished."""
    writer = RecordingWriter(RecordingStore(folder), "synthetic:parrot", every_call=True, days=days)
    writer.start()
    try:
        yield Begin(writer)
    finally:
        await writer.stop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def samples(folder: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.int16]]":
    """Return the only recording, int16."""
    (path,) = folder.glob("*.flac")
    found, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == 8_000
    return np.asarray(found, np.int16)


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what a thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - a thread gives no sign
            await asyncio.sleep(0.01)


async def test_a_call_becomes_flac_and_a_token_log(tmp_path: Path) -> None:
    session = new_session()
    record = session.record
    async with writing(tmp_path) as begin:
        recorder = begin(session)
        Talk(recorder).start().speak(1.0)
        recorder.on_end(OVER, NOW + 1.5)
    name = record.recording.name
    assert str(record.recording) == f"kept in {name}"
    assert names(tmp_path) == [f"{name}.flac", f"{name}.tokens"]
    assert all(stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o600 for made in names(tmp_path))
    found, loud = samples(tmp_path), int(mulaw.decode(LOUD)[0])
    assert found.shape == (12_000, 2)
    assert np.array_equal(found[:8_000], np.full((8_000, 2), loud))
    assert not found[8_000:].any()
    header, tokens = read_tokens(tmp_path / f"{name}.tokens")
    assert (header.call_sid, header.greeting_frames, header.checkpoint) == (ANN, 3, "synthetic:parrot")
    assert tokens[:, 0].tolist() == list(range(50))


async def test_each_stream_of_a_call_has_files_of_its_own_even_within_a_second(tmp_path: Path) -> None:
    record = CallRecord(ANN, NOW)
    async with writing(tmp_path) as begin:
        for seconds in (1.0, 2.0, 3.0):
            recorder = begin(new_session(record=record))
            Talk(recorder).start().speak(seconds)
            recorder.on_end(OVER, NOW + seconds)
    recordings = [stream.recording.name for stream in record.streams]
    assert len(set(recordings)) == 3
    assert all(name.endswith(f"-{record.call_sid}") for name in recordings)
    assert [soundfile.info(tmp_path / f"{name}.flac").duration for name in recordings] == [1.0, 2.0, 3.0]
    assert len(names(tmp_path)) == 6
    assert record.recording is record.streams[2].recording, "the last one that there is"


async def test_what_was_cleared_or_not_played_at_the_end_is_not_recorded(tmp_path: Path) -> None:
    async with writing(tmp_path) as begin:
        recorder = begin(new_session())
        Talk(recorder).start().speak(1.0).clear(NOW + 0.5)
        recorder.on_end(OVER, NOW + 0.75)
    found = samples(tmp_path)
    assert len(found) == 6_000
    assert np.flatnonzero(found[:, Side.MOSHI]).max() == 3_999
    assert np.flatnonzero(found[:, Side.CALLER]).max() == 5_999


async def test_a_call_that_had_no_stream_leaves_nothing_behind(tmp_path: Path) -> None:
    session = new_session()
    record = session.record
    async with writing(tmp_path) as begin:
        recorder = begin(session)
        recorder.queue.append(StepTokens(0, bytes(34)))
        recorder.on_end(OVER, NOW + 1.0)
    assert names(tmp_path) == []
    assert str(record.recording) == "no recording"


async def test_only_what_was_asked_for_is_recorded_if_the_settings_say_so(tmp_path: Path) -> None:
    writer = RecordingWriter(RecordingStore(tmp_path), "", every_call=False)
    assert writer.record(new_session(), False) is None
    asked = new_session()
    assert writer.record(asked, True) is not None
    assert asked.record.recording.name.endswith(ANN)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_full_disk_ends_that_recording_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of one call is /dev/full, which takes nothing; the other call's disk has room."""
    sessions = new_session(), new_session(CallSid("CAfine"))
    full, fine = (session.record for session in sessions)

    class FullDiskFile(RecordingFile):
        def write(self, pieces: Sequence[Piece]) -> None:
            if "CAfine" not in self.path.name:
                self.close()
                self._descriptor = os.open("/dev/full", os.O_RDWR)
            super().write(pieces)

    monkeypatch.setattr(recorder_module, "RecordingFile", FullDiskFile)
    async with writing(tmp_path) as begin:
        talks = [Talk(begin(session)).start().speak(1.0) for session in sessions]
        await until(lambda: full.recording.fault)
        for talk in talks:
            talk.speak(0.5, first=50).recorder.on_end(OVER, NOW + 2.0)
    assert str(full.recording).endswith("broken off: No space left on device")
    assert fine.recording.fault == ""
    assert f"{fine.recording.name}.flac" in names(tmp_path)
    assert begin.writer.faults == 1
    assert len(talks[0].recorder.queue) == 0, "nothing piles up once it is broken off"


async def test_a_file_that_cannot_be_made_leaves_nothing_but_the_reason(tmp_path: Path) -> None:
    session = new_session()
    record = session.record
    async with writing(tmp_path) as begin:
        recorder = begin(session)
        (tmp_path / f"{record.recording.name}.wav").mkdir()
        Talk(recorder).start().speak(1.0)
        await until(lambda: record.recording.fault)
        recorder.on_end(OVER, NOW + 1.0)
    assert str(record.recording) == "File exists"
    assert [name[-4:] for name in names(tmp_path)] == [".wav"]


async def test_a_fault_after_the_end_of_the_call_is_reported(tmp_path: Path) -> None:
    session, reported = new_session(), asyncio.Event()
    record = session.record
    async with writing(tmp_path) as begin:
        begin.writer.on_late_fault = lambda late, slot: reported.set() if late is record else None
        recorder = begin(session)
        (tmp_path / f"{record.recording.name}.wav").mkdir()
        recorder.is_over = True  # before the writer has begun
        Talk(recorder).start()
        async with asyncio.timeout(PATIENCE_S):
            await reported.wait()
    assert record.recording.fault == "File exists"


async def test_an_error_of_ours_costs_one_recording_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = new_session(), new_session(CallSid("CAfine"))
    wrong, fine = (session.record for session in sessions)
    async with writing(tmp_path) as begin:
        for session in sessions:
            recorder = begin(session)
            Talk(recorder).start().speak(1.0)
            if session.record is wrong:
                recorder.queue.append(StepTokens(50, None))  # type: ignore[arg-type]
            recorder.on_end(OVER, NOW + 1.0)
    assert (wrong.recording.fault, fine.recording.fault) == (OUR_FAULT, "")
    assert f"{fine.recording.name}.flac" in names(tmp_path)
    assert "a recording is lost" in caplog.text


async def test_what_a_killed_run_left_is_finished_and_what_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    dead, alive, empty = (tmp_path / f"20260102T12000{number}Z-{ANN}.wav" for number in range(3))
    for path in (dead, empty):
        file = RecordingFile(path)
        file.write([PIECE] if path is dead else [])
        file.close()
    held = RecordingFile(alive)
    held.write([PIECE])
    ended_at = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    os.utime(dead, (ended_at, ended_at))
    async with writing(tmp_path):
        pass
    held.close()
    assert names(tmp_path) == [dead.with_suffix(".flac").name, alive.name]
    assert len(samples(tmp_path)) == 800
    assert dead.with_suffix(".flac").stat().st_mtime == ended_at, "so that it is deleted in its time"


async def test_recordings_are_deleted_after_their_days(tmp_path: Path) -> None:
    old, new = (tmp_path / f"20260102T12000{number}Z-{ANN}.flac" for number in range(2))
    for path, days in ((old, 3), (new, 1)):
        path.touch()
        moment_s = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (moment_s, moment_s))
    async with writing(tmp_path, days=2):
        await until(lambda: not old.exists())
    assert new.exists()


async def test_what_is_written_while_the_call_is_on_can_be_played(tmp_path: Path) -> None:
    store = RecordingStore(tmp_path)
    async with writing(tmp_path) as begin:
        recorder = begin(new_session())
        Talk(recorder).start().speak(1.0)
        await until(lambda: store.audio_of(ANN) and not recorder.queue)
        path = store.audio_of(ANN)
        assert path
        assert path.suffix == ".wav"
        recorder.on_end(OVER, NOW + 1.0)
    assert len(samples(tmp_path)) == 8_000
