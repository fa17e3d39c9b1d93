import contextlib
import os
import re
import stat
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from app.audio import mulaw
from app.calls.record import CallRecord
from app.calls.session import CallSession
from app.telemetry.recording import recorder as recorder_module
from app.telemetry.recording.audio_files import RecordingFile
from app.telemetry.recording.recorder import OUR_FAULT, StepTokens
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.timeline import Channel, Piece
from app.telemetry.recording.tokens import read_tokens
from app.telemetry.recording.writer import RecordingWriter
from app.twilio.events import CallSid
from tests.app.telemetry.recording.test_recorder import ANN, LOUD, NOW, Talk, new_session
from tests.waiting import until
from workers.messages import Slot

PIECE = Piece(Channel.MOSHI, 0, LOUD * 5)
FINE, BOB = CallSid("CAfine"), CallSid("CAbob")


@contextlib.asynccontextmanager
async def writing(folder: Path, days: int = 0) -> AsyncIterator[RecordingWriter]:
    """A writer at work. At the end everything has been written and finished."""
    writer = RecordingWriter(RecordingStore(folder), "synthetic:parrot", every_call=True, days=days)
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def begin(writer: RecordingWriter, session: CallSession | None = None) -> Talk:
    """Begin to record a stream that has not started yet."""
    recorder = writer.record(session or new_session(), False, Slot(0))
    assert recorder
    return Talk(recorder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def samples(folder: Path) -> Any:
    """Return the only recording, int16."""
    (path,) = folder.glob("*.flac")
    found, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == 8_000
    return found


async def test_a_call_becomes_flac_and_a_token_log(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        talk = begin(writer).start().speak(1.0)
        talk.end(1.5)
    name = talk.record.recording.name
    assert str(talk.record.recording) == f"kept in {name}"
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
    async with writing(tmp_path) as writer:
        for seconds in (1.0, 2.0, 3.0):
            begin(writer, new_session(record=record)).start().speak(seconds).end(seconds)
    recordings = [stream.recording.name for stream in record.streams]
    assert len(set(recordings)) == 3
    assert all(re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{record.call_sid}", name) for name in recordings)
    assert [soundfile.info(tmp_path / f"{name}.flac").duration for name in recordings] == [1.0, 2.0, 3.0]
    assert len(names(tmp_path)) == 6
    assert record.recording is record.streams[2].recording, "the last one that there is"


async def test_what_was_cleared_or_not_played_at_the_end_is_not_recorded(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        talk = begin(writer).start().speak(1.0)
        talk.clear(NOW + 0.5)
        talk.end(0.75)
    found = samples(tmp_path)
    assert len(found) == 6_000
    assert np.flatnonzero(found[:, Channel.MOSHI]).max() == 3_999
    assert np.flatnonzero(found[:, Channel.CALLER]).max() == 5_999


async def test_a_call_that_had_no_stream_leaves_nothing_behind(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        talk = begin(writer)
        talk.recorder.queue.append(StepTokens(0, bytes(34)))
        talk.end(1.0)
    assert names(tmp_path) == []
    assert str(talk.record.recording) == "no recording"


async def test_only_what_was_asked_for_is_recorded_if_the_settings_say_so(tmp_path: Path) -> None:
    writer = RecordingWriter(RecordingStore(tmp_path), "", every_call=False)
    assert writer.record(new_session(), False, Slot(0)) is None
    asked = new_session()
    assert writer.record(asked, True, Slot(0)) is not None
    assert asked.record.recording.name.endswith(ANN)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_full_disk_ends_that_recording_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of one call is /dev/full, which takes nothing; the other call's disk has room."""

    class FullDiskFile(RecordingFile):
        def write(self, pieces: Sequence[Piece]) -> None:
            if FINE not in self.path.name:
                self.close()
                self._descriptor = os.open("/dev/full", os.O_RDWR)
            super().write(pieces)

    monkeypatch.setattr(recorder_module, "RecordingFile", FullDiskFile)
    async with writing(tmp_path) as writer:
        full, fine = (begin(writer, new_session(sid)).start().speak(1.0) for sid in (ANN, FINE))
        await until(lambda: full.record.recording.fault)
        for talk in (full, fine):
            talk.speak(0.5, first=50).end(2.0)
    assert str(full.record.recording).endswith("broken off: No space left on device")
    assert fine.record.recording.fault == ""
    assert f"{fine.record.recording.name}.flac" in names(tmp_path)
    assert writer.faults == 1
    assert len(full.recorder.queue) == 0, "nothing piles up once it is broken off"


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_file_that_cannot_be_made_leaves_nothing_but_the_reason(tmp_path: Path, is_over: bool) -> None:
    """If the call is over by then, somebody else must be told: its record has been written."""
    reported = []
    async with writing(tmp_path) as writer:
        writer.on_late_fault = lambda record, slot: reported.append(record)
        talk = begin(writer)
        (tmp_path / f"{talk.record.recording.name}.wav").mkdir()
        talk.recorder.is_over = is_over  # before the writer has begun
        talk.start().speak(1.0)
        await until(lambda: reported if is_over else talk.record.recording.fault)
        talk.end(1.0)
    assert str(talk.record.recording) == "File exists"
    assert [name[-4:] for name in names(tmp_path)] == [".wav"]
    assert reported == [talk.record] * is_over


async def test_an_error_of_ours_costs_one_recording_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with writing(tmp_path) as writer:
        wrong, fine = (begin(writer, new_session(sid)).start().speak(1.0) for sid in (ANN, FINE))
        wrong.recorder.queue.append(StepTokens(50, None))  # type: ignore[arg-type]
        for talk in (wrong, fine):
            talk.end(1.0)
    assert (wrong.record.recording.fault, fine.record.recording.fault) == (OUR_FAULT, "")
    assert f"{fine.record.recording.name}.flac" in names(tmp_path)
    assert "a recording is lost" in caplog.text


async def test_what_a_killed_run_left_is_finished_and_what_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    dead, alive, empty = (RecordingFile(tmp_path / f"20260102T12000{number}Z-{ANN}.wav") for number in range(3))
    for file in (dead, alive):
        file.write([PIECE])
    dead.close()
    empty.close()
    ended_at = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    os.utime(dead.path, (ended_at, ended_at))
    async with writing(tmp_path):
        pass
    alive.close()
    flac = dead.path.with_suffix(".flac")
    assert names(tmp_path) == [flac.name, alive.path.name]
    assert len(samples(tmp_path)) == 800
    assert flac.stat().st_mtime == ended_at, "so that it is deleted in its time"


async def test_recordings_are_deleted_after_their_days(tmp_path: Path) -> None:
    old, new = (tmp_path / f"20260102T12000{number}Z-{ANN}.flac" for number in range(2))
    for path, days in ((old, 3), (new, 1)):
        path.touch()
        moment_s = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (moment_s, moment_s))
    async with writing(tmp_path, days=2):
        await until(lambda: not old.exists())
    assert new.exists()


@pytest.mark.parametrize("is_finished", [True, False])
async def test_the_recordings_of_a_call_are_deleted_if_it_is_to_be_forgotten(tmp_path: Path, is_finished: bool) -> None:
    async with writing(tmp_path) as writer:
        forgotten, kept = (begin(writer, new_session(sid)).start().speak(1.0) for sid in (ANN, FINE))
        await until(lambda: not forgotten.recorder.queue and len(names(tmp_path)) == 4)
        if is_finished:
            forgotten.end(1.0)
            await until(lambda: list(tmp_path.glob(f"*-{ANN}.flac")))
        writer.delete({ANN, BOB})
        await until(lambda: not list(tmp_path.glob(f"*-{ANN}.*")))
        for talk in (forgotten, kept):
            talk.end(1.0)
    assert names(tmp_path) == [f"{kept.record.recording.name}{suffix}" for suffix in (".flac", ".tokens")]
    assert writer.faults == 0


async def test_what_is_written_while_the_call_is_on_can_be_played(tmp_path: Path) -> None:
    store = RecordingStore(tmp_path)
    async with writing(tmp_path) as writer:
        talk = begin(writer).start().speak(1.0)
        await until(lambda: store.audio_of(ANN) and not talk.recorder.queue)
        path = store.audio_of(ANN)
        assert path
        assert path.suffix == ".wav"
        talk.end(1.0)
    assert len(samples(tmp_path)) == 8_000
