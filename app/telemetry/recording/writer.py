"""The thread that writes what is recorded of all calls, and the one that finishes what is over."""

import asyncio
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from app.calls.record import CallRecord, Recording
from app.calls.session import CallSession
from app.logging import CallLog
from app.telemetry.recording.recorder import OUR_FAULT, CallRecorder
from app.telemetry.recording.sound import SoundError, finish
from app.telemetry.recording.store import RecordingStore, recording_name
from app.telemetry.recording.take import Take
from app.telemetry.recording.tokens import TokenHeader
from workers.messages import Slot

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
"""What a crash may cost."""
STOP_WITHIN_S = 10.0
EXPIRE_EVERY_S = 6 * 3_600.0
NO_SLOT = Slot(-1)


class RecordingWriter:
    """Records calls into a folder. `start` raises SettingsError if nothing can be written there.

    With `every_call` all are recorded, otherwise those that were asked for. `days` is how long recordings stay, 0 for
    ever.
    """

    def __init__(self, store: RecordingStore, checkpoint: str, every_call: bool, days: int = 0) -> None:
        self._store, self._checkpoint, self._every_call, self._days = store, checkpoint, every_call, days
        self._inbox: queue.SimpleQueue[Take] = queue.SimpleQueue()
        self._takes: list[Take] = []
        self._over: queue.SimpleQueue[Take | Path | None] = queue.SimpleQueue()
        self.on_late_fault: Callable[[CallRecord, Slot], None] = lambda record, slot: None
        """Called on the event loop when a recording is broken off after its call was over."""
        self.faults = 0
        """Recordings that were broken off or could not be finished."""
        self._has_put_off = False
        self._news, self._stopping = threading.Event(), threading.Event()
        self._writing = threading.Thread(target=self._write_all, name="recordings", daemon=True)
        self._finishing = threading.Thread(target=self._finish_all, name="finish-recordings", daemon=True)

    def start(self) -> None:
        """Begin to write, and finish what a killed run has left."""
        self._loop = asyncio.get_running_loop()
        self._store.make()
        for tape in self._store.tapes():
            self._over.put(tape)
        self._writing.start()
        self._finishing.start()
        log.info(
            "%s recorded into %s", "calls are" if self._every_call else "calls that ask for it are", self._store.folder
        )

    def record(self, session: CallSession, asked: bool, slot: Slot = NO_SLOT) -> CallRecorder | None:
        """Begin to record a stream of a call, or not; never blocks."""
        if not (asked or self._every_call):
            return None
        record, stream = session.record, session.stream
        stream.recording = Recording(fault=OUR_FAULT)  # until it has begun
        began = datetime.now(UTC)
        recording = Recording(_new_name(record, began))
        recorder = CallRecorder(session, recording)
        recorder.when_broken = partial(self._report_late_fault, record, slot)
        header = TokenHeader(record.call_sid, self._checkpoint, began.isoformat(), record.greeting_frames)
        self._inbox.put(Take(recorder, self._store.path(recording.name), header))
        self._news.set()
        stream.recording = recording
        return recorder

    async def stop(self) -> None:
        """Write and finish what there is; what is not finished soon is finished at the next start."""
        self._stopping.set()
        self._news.set()
        await asyncio.to_thread(self._writing.join, STOP_WITHIN_S)
        await asyncio.to_thread(self._finishing.join, STOP_WITHIN_S)

    def _report_late_fault(self, record: CallRecord, slot: Slot) -> None:
        self._loop.call_soon_threadsafe(self.on_late_fault, record, slot)

    def _write_all(self) -> None:
        while True:
            stopping = self._stopping.is_set()
            self._turn()
            if stopping:
                break
            self._news.wait(WRITE_EVERY_S if self._takes else None)
            self._news.clear()
        self._over.put(None)

    def _turn(self) -> None:
        while not self._inbox.empty():
            self._takes.append(self._inbox.get())
        for take in self._takes:
            try:
                take.turn()
            except Exception:
                log.exception("a recording is lost")
                take.break_off(OUR_FAULT)
            if take.over:
                self._over.put(take)
        self._takes = [take for take in self._takes if not take.over]

    def _finish_all(self) -> None:
        expire_s = 0.0
        while True:
            if self._days and time.monotonic() >= expire_s:
                expire_s = time.monotonic() + EXPIRE_EVERY_S
                self._expire()
            try:
                over = self._over.get(timeout=EXPIRE_EVERY_S)
            except queue.Empty:
                continue
            if over is None:
                return
            try:
                self.faults += not (_finish_orphan(over) if isinstance(over, Path) else _finish_take(over))
            except Exception:
                self.faults += 1
                log.exception("a recording stays as it was on the line")

    def _expire(self) -> None:
        try:
            now = datetime.now(UTC)
            gone, put_off = self._store.expire(now - timedelta(days=self._days), now)
        except OSError as error:
            log.error("old recordings are not deleted: %s", error)
            return
        if gone:
            log.info("%d recordings older than %d days are deleted", gone, self._days)
        if put_off and not self._has_put_off:
            log.warning(
                "%d recordings, most of those that are kept, are older than CALL_LOG_DAYS=%d days: "
                "they are deleted in a day if the clock is still the same; is it right?",
                put_off,
                self._days,
            )
        self._has_put_off = bool(put_off)


def _new_name(record: CallRecord, began: datetime) -> str:
    """Return a name for a recording that none of the call has: names tell seconds apart, streams may be closer."""
    taken = {stream.recording.name for stream in record.streams}
    while (name := recording_name(record.call_sid, began)) in taken:
        began += timedelta(seconds=1)
    return name


def _finish_take(take: Take) -> bool:
    """Finish what was recorded of a call; return whether it is whole."""
    recording, call_log = take.recording, CallLog(log, take.call_sid)
    if recording.fault:
        call_log.error("the recording is broken off: %s", recording.fault)
    try:
        if take.tape:
            sound = finish(take.tape.path)
            call_log.info("recorded in %s", sound)
        return not recording.fault
    except (SoundError, OSError) as error:
        call_log.error("the recording stays as it was on the line: %s", error)
        return False
    finally:
        take.close()


def _finish_orphan(tape: Path) -> bool:
    """Finish a tape unless a run that is alive holds it; return whether nothing went wrong."""
    try:
        descriptor = os.open(tape, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("a killed run has left a recording: %s", finish(tape) or "an empty one")
        finally:
            os.close(descriptor)
        return True
    except BlockingIOError:
        return True
    except (SoundError, OSError) as error:
        log.error("%s cannot be finished: %s", tape, error)
        return False
