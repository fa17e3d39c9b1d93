import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.audio import mulaw
from app.audio.playout import SendAudio
from app.calls.record import CallRecord
from app.calls.session import CallLimits, CallSession
from app.telemetry.recording import take as take_module
from app.telemetry.recording.recorder import (
    EARLY_PIECES,
    NO_FOLDER,
    OUR_FAULT,
    TOO_SLOW,
    Begun,
    CallRecorder,
    Cleared,
    Ended,
    Heard,
    Said,
    Stepped,
    record_nothing,
)
from app.telemetry.recording.recording_file import RecordingFile
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.timeline import Piece, Side
from app.telemetry.recording.tokens import read_tokens
from app.telemetry.recording.writer import RecordingWriter
from app.twilio.events import CallSid, MarkPlayed, Started, StreamSid
from tests.processes.pipeline import PATIENCE_S

ANN = CallSid("CA" + "a" * 32)
NOW = 1_000.0
LOUD = bytes([0x10])
HAS_FULL_DISK = Path("/dev/full").exists()


def call_record(call_sid: CallSid = ANN) -> CallRecord:
    record = CallRecord(call_sid, NOW, greeting_frames=3)
    record.open_stream(NOW)
    return record


def talk(recorder: CallRecorder, seconds: float = 1.0) -> None:
    """Both sides speak all the time, from the beginning of a stream on."""
    recorder._put(Begun(NOW))
    for number in range(round(seconds * 50)):
        recorder._put(Heard(number * 160, NOW + (number + 1) * 0.02, LOUD * 160))
        recorder._put(Said(LOUD * 160, NOW + number * 0.02))
        recorder._put(Stepped(number, np.full(17, number, "<i2").tobytes()))
    recorder._begun = True


@dataclass(frozen=True)
class Begin:
    """Begins recordings."""

    writer: RecordingWriter

    def __call__(self, record: CallRecord) -> CallRecorder:
        recorder = self.writer.record(record, False)
        assert recorder
        return recorder


@contextlib.asynccontextmanager
async def writing(folder: Path, every_call: bool = True, days: int = 0) -> AsyncIterator["Begin"]:
    """A writer at work; gives what begins a recording. At the end everything has been written and finished."""
    writer = RecordingWriter(RecordingStore(folder), "synthetic:parrot", every_call, days)
    writer.start()
    try:
        yield Begin(writer)
    finally:
        await writer.stop()


def files(folder: Path) -> dict[str, Path]:
    return {path.suffix: path for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def until(true: Callable[[], object]) -> None:
    """Wait for what a thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - a thread gives no sign
            await asyncio.sleep(0.01)


async def test_each_stream_of_a_call_is_recorded_in_files_of_its_own_even_within_a_second(tmp_path: Path) -> None:
    record = call_record()
    async with writing(tmp_path) as begin:
        for seconds in (1.0, 2.0, 3.0):
            recorder = begin(record)
            talk(recorder, seconds)
            recorder.on_end(NOW + seconds)
            record.open_stream(NOW + seconds)
    recordings = [stream.recording.name for stream in record.streams[:-1]]
    assert len(set(recordings)) == 3
    assert all(name.endswith(f"-{record.call_sid}") for name in recordings)
    assert [soundfile.info(tmp_path / f"{name}.flac").duration for name in recordings] == [1.0, 2.0, 3.0]
    assert len(names(tmp_path)) == 6
    assert record.recording is record.streams[2].recording, "the last one that there is"


async def test_a_call_becomes_flac_and_a_token_log(tmp_path: Path) -> None:
    record = call_record()
    async with writing(tmp_path) as begin:
        recorder = begin(record)
        talk(recorder)
        recorder.on_end(NOW + 1.5)
    found = files(tmp_path)
    assert set(found) == {".flac", ".tokens"}
    assert {path.stem for path in found.values()} == {record.recording.name}
    assert str(record.recording) == f"kept in {record.recording.name}"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found.values())
    samples, rate_hz = soundfile.read(found[".flac"], dtype="int16")
    loud = int(mulaw.decode(LOUD)[0])
    assert (rate_hz, samples.shape) == (8_000, (12_000, 2))
    assert np.array_equal(samples[:8_000], np.full((8_000, 2), loud))
    assert not samples[8_000:].any()
    header, tokens = read_tokens(found[".tokens"])
    assert (header.call_sid, header.greeting_frames, header.checkpoint) == (ANN, 3, "synthetic:parrot")
    assert tokens[:, 0].tolist() == list(range(50))


async def test_what_moshi_had_still_to_say_when_the_caller_hung_up_is_not_on_it(tmp_path: Path) -> None:
    async with writing(tmp_path) as begin:
        recorder = begin(call_record())
        talk(recorder)
        recorder.on_end(NOW + 0.25)
    samples, _ = soundfile.read(files(tmp_path)[".flac"], dtype="int16")
    assert len(samples) == 2_000


async def test_what_was_cleared_is_not_on_it(tmp_path: Path) -> None:
    async with writing(tmp_path) as begin:
        recorder = begin(call_record())
        talk(recorder)
        recorder._put(Cleared(NOW + 0.5))
        recorder.on_end(NOW + 1.0)
    samples, _ = soundfile.read(files(tmp_path)[".flac"], dtype="int16")
    assert np.flatnonzero(samples[:, Side.MOSHI]).max() == 3_999
    assert np.flatnonzero(samples[:, Side.CALLER]).max() == 7_999


async def test_a_call_that_had_no_stream_leaves_nothing_behind(tmp_path: Path) -> None:
    record = call_record()
    async with writing(tmp_path) as begin:
        recorder = begin(record)
        recorder._put(Stepped(0, bytes(34)))
        recorder.on_end(NOW + 1.0)
    assert names(tmp_path) == []
    assert str(record.recording) == "no recording"


async def test_only_what_was_asked_for_is_recorded_if_the_settings_say_so(tmp_path: Path) -> None:
    writer = RecordingWriter(RecordingStore(tmp_path), "", every_call=False)
    assert writer.record(call_record(), False) is None
    asked = call_record()
    assert writer.record(asked, True) is not None
    assert asked.recording.name.endswith(ANN)


def test_who_asks_where_nothing_is_recorded_is_told_why() -> None:
    asked, other = call_record(), call_record()
    assert record_nothing(asked, True) is record_nothing(other, False) is None
    assert (str(asked.recording), str(other.recording)) == (NO_FOLDER, "no recording")


@pytest.mark.skipif(not HAS_FULL_DISK, reason="there is no /dev/full here")
async def test_a_full_disk_ends_the_recording_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tape whose writes go to /dev/full, which takes nothing; the other call's disk has room."""
    full, fine = call_record(), call_record(CallSid("CAfine"))

    class FullDiskFile(RecordingFile):
        def write(self, pieces: list[Piece]) -> None:  # type: ignore[override]
            if "CAfine" not in self.path.name:
                self.close()
                self._descriptor = os.open("/dev/full", os.O_RDWR)
            super().write(pieces)

    monkeypatch.setattr(take_module, "RecordingFile", FullDiskFile)
    async with writing(tmp_path) as begin:
        recorders = [begin(record) for record in (full, fine)]
        for recorder in recorders:
            talk(recorder)
        await until(lambda: full.recording.fault)
        for recorder in recorders:
            recorder._put(Heard(8_000, NOW + 1.02, LOUD * 160))
            recorder.on_end(NOW + 2.0)
    assert full.recording.fault == "No space left on device"
    assert str(full.recording).endswith("broken off: No space left on device")
    assert fine.recording.fault == ""
    assert f"{fine.recording.name}.flac" in names(tmp_path)
    assert begin.writer.faults == 1
    assert len(recorders[0].inbox) == 0, "nothing piles up once it is broken off"


async def test_a_tape_that_cannot_be_made_leaves_nothing_but_the_reason(tmp_path: Path) -> None:
    record = call_record()
    async with writing(tmp_path) as begin:
        recorder = begin(record)
        (tmp_path / f"{record.recording.name}.wav").mkdir()
        talk(recorder)
        await until(lambda: record.recording.fault)
        recorder.on_end(NOW + 1.0)
    assert str(record.recording) == "File exists"
    assert [name[-4:] for name in names(tmp_path)] == [".wav"]


async def test_what_goes_wrong_after_the_end_is_told_once_more(tmp_path: Path) -> None:
    record, told = call_record(), list[str]()
    async with writing(tmp_path) as begin:
        recorder = begin(record)
        recorder.when_broken = lambda: told.append(record.recording.fault)
        (tmp_path / f"{record.recording.name}.wav").mkdir()
        recorder.over = True  # before the writer has looked
        recorder.inbox.append(Begun(NOW))
    assert told == ["File exists"]


async def test_an_error_of_ours_costs_one_recording_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, fine = call_record(), call_record(CallSid("CAfine"))
    async with writing(tmp_path) as begin:
        for record in (wrong, fine):
            recorder = begin(record)
            talk(recorder)
            if record is wrong:
                recorder.inbox.append(Stepped(50, None))  # type: ignore[arg-type]
            recorder.on_end(NOW + 1.0)
    assert (wrong.recording.fault, fine.recording.fault) == (OUR_FAULT, "")
    assert f"{fine.recording.name}.flac" in names(tmp_path)
    assert "a recording is lost" in caplog.text


def test_a_disk_that_does_not_keep_up_costs_the_recording_and_no_memory() -> None:
    record = call_record()
    recorder = CallRecorder(record.streams[-1].recording, limit=10)
    talk(recorder)
    assert len(recorder.inbox) == 10
    assert record.recording.fault == TOO_SLOW


async def test_what_a_killed_run_left_is_finished_and_what_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    dead, alive, empty = (tmp_path / f"20260102T12000{number}Z-{ANN}.wav" for number in range(3))
    for path in (dead, empty):
        tape = RecordingFile(path)
        if path is dead:
            tape.write([Piece(Side.MOSHI, 0, LOUD * 800)])
        tape.close()
    held = RecordingFile(alive)
    held.write([Piece(Side.MOSHI, 0, LOUD * 800)])
    ended_at = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    os.utime(dead, (ended_at, ended_at))
    async with writing(tmp_path):
        pass
    held.close()
    assert names(tmp_path) == [dead.with_suffix(".flac").name, alive.name]
    assert len(soundfile.read(dead.with_suffix(".flac"))[0]) == 800
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
    async with writing(tmp_path) as begin:
        recorder = begin(call_record())
        talk(recorder)
        await until(lambda: RecordingStore(tmp_path).sound_of(ANN) and not recorder.inbox)
        path = RecordingStore(tmp_path).sound_of(ANN)
        assert path
        recorder._put(Ended(NOW + 1.0))
        recorder.over = True
    assert path.suffix == ".wav"
    assert len(soundfile.read(files(tmp_path)[".flac"])[0]) == 8_000


def test_to_record_costs_the_event_loop_next_to_nothing(record_property: Callable[[str, object], None]) -> None:
    recorder = CallRecorder(call_record().recording, limit=1_000_000)
    began_s = time.perf_counter()
    for number in range(10_000):
        recorder._put(Said(b"", float(number)))
    record_property("microseconds for one packet", round((time.perf_counter() - began_s) * 100, 2))
    assert len(recorder.inbox) == 10_000


def test_what_is_sent_before_the_round_trip_is_known_is_placed_once_it_is() -> None:
    recorder, session = CallRecorder(call_record().recording), new_session()
    sent = [SendAudio(bytes([number]), "0:1", number, NOW + number) for number in range(3)]
    for audio in sent[:2]:
        recorder.on_sent(audio, session)
    assert not recorder.inbox
    session.receive(MarkPlayed("0:1"), NOW + 0.1)
    recorder.on_sent(sent[2], session)
    heard = [(moment.payload, moment.heard_s) for moment in recorder.inbox if isinstance(moment, Said)]
    assert [payload for payload, _ in heard] == [b"\0", b"\1", b"\2"]
    assert [heard_s for _, heard_s in heard] == pytest.approx([NOW + 0.1, NOW + 1.1, NOW + 2])


def test_where_no_mark_comes_back_nothing_is_kept_back_for_long() -> None:
    recorder, session = CallRecorder(call_record().recording), new_session()
    for number in range(EARLY_PIECES + 1):
        recorder.on_sent(SendAudio(b"\0", "0:1", number, NOW + number), session)
    assert list(recorder.inbox) == [Said(b"\0", NOW + number) for number in range(EARLY_PIECES + 1)]


def new_session() -> CallSession:
    """A call whose stream began just now, at which a mark went out."""
    session = CallSession(ANN, "", CallLimits(0, 10.0, 100.0, 0.0), NOW)
    session.on_socket_open(NOW)
    session.receive(Started(StreamSid("MZ1"), ANN, "AC1"), NOW)
    return session
