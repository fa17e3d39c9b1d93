"""The thread that writes the recordings of all calls, and the one that makes FLAC files of those that are over."""

import asyncio
import fcntl
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.calls.record import CallRecord, Recording
from app.calls.session import CallSession
from app.logging import CallLogger
from app.telemetry.expiry import CHECK_EVERY_S, Expiry
from app.telemetry.recording.audio_files import AudioFileError, encode_flac
from app.telemetry.recording.recorder import OUR_FAULT, CallFiles, CallRecorder
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.tokens import TokenHeader
from workers.messages import Slot

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
"""What a kill may cost."""
STOP_LIMIT_S = 10.0


class RecordingWriter:
    """Records calls into a folder. `start` raises SettingsError if nothing can be written there.

    With `every_call` all are recorded, otherwise those that were asked for. `days` is how long recordings stay, 0 for
    ever.
    """

    def __init__(self, store: RecordingStore, checkpoint: str, every_call: bool, days: int = 0) -> None:
        self._store, self._checkpoint, self._every_call = store, checkpoint, every_call
        self._expiry = Expiry(store, "recordings", days, store.path(".expiry-put-off"))
        self._new: queue.SimpleQueue[CallFiles] = queue.SimpleQueue()
        self._over: queue.SimpleQueue[CallFiles | Path | frozenset[str] | None] = queue.SimpleQueue()
        self.on_late_fault: Callable[[CallRecord, Slot], None] = lambda record, slot: None
        """Called on the event loop when a recording is broken off after its call was over."""
        self.faults = 0
        """Recordings that were broken off or could not be finished."""
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._writing = threading.Thread(target=self._write_all, name="recordings", daemon=True)
        self._finishing = threading.Thread(target=self._finish_all, name="finish-recordings", daemon=True)

    def start(self) -> None:
        """Begin to write, and finish what a killed run has left."""
        self._loop = asyncio.get_running_loop()
        self._store.make()
        for path in self._store.unfinished():
            self._over.put(path)
        self._writing.start()
        self._finishing.start()
        which = "calls are" if self._every_call else "calls that ask for it are"
        log.info("%s recorded into %s", which, self._store.folder)

    def record(self, session: CallSession, asked: bool, slot: Slot) -> CallRecorder | None:
        """Begin to record a stream of a call, or not; never blocks."""
        if not (asked or self._every_call):
            return None
        record, began = session.record, datetime.now(UTC)
        session.stream.recording = Recording(fault=OUR_FAULT)  # until it has begun
        recorder = CallRecorder(session, Recording(_new_name(record, began)))
        recorder.when_broken = lambda: self._loop.call_soon_threadsafe(self.on_late_fault, record, slot)
        header = TokenHeader(record.call_sid, self._checkpoint, began.isoformat(), record.greeting_frames)
        self._new.put(CallFiles(recorder, self._store.path(recorder.recording.name), header))
        self._wake.set()
        session.stream.recording = recorder.recording
        return recorder

    def delete(self, call_sids: Iterable[str]) -> None:
        """Delete what there is of these calls; never blocks."""
        self._over.put(frozenset(call_sids))

    async def stop(self) -> None:
        """Write and finish what there is; what is not finished soon is finished at the next start."""
        self._stopping.set()
        self._wake.set()
        for thread in (self._writing, self._finishing):
            await asyncio.to_thread(thread.join, STOP_LIMIT_S)

    def _write_all(self) -> None:
        calls: list[CallFiles] = []
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set()
            while not self._new.empty():
                calls.append(self._new.get())
            for call in calls:
                call.write()
                if call.is_over:
                    self._over.put(call)
            calls = [call for call in calls if not call.is_over]
            if not is_last:
                self._wake.wait(WRITE_EVERY_S if calls else None)
                self._wake.clear()
        self._over.put(None)

    def _finish_all(self) -> None:
        while True:
            try:
                self._expiry.run(time.monotonic(), datetime.now(UTC))
            except OSError as error:
                log.error("old recordings are not deleted: %s", error)
            try:
                over = self._over.get(timeout=CHECK_EVERY_S)
            except queue.Empty:
                continue
            if over is None:
                return
            try:
                if isinstance(over, frozenset):
                    self._store.delete(self._store.of_calls(over))
                else:
                    self.faults += not (_finish_left_behind(over) if isinstance(over, Path) else _finish(over))
            except Exception:
                self.faults += 1
                log.exception("a recording stays as it is")


def _new_name(record: CallRecord, began: datetime) -> str:
    """Return a name that no recording of the call has: names differ by seconds, streams may be closer."""
    used = {stream.recording.name for stream in record.streams}
    while (name := f"{began:%Y%m%dT%H%M%SZ}-{record.call_sid}") in used:
        began += timedelta(seconds=1)
    return name


def _finish(call: CallFiles) -> bool:
    """Finish what was recorded of a call; return whether it is whole."""
    recording, call_log = call.recording, CallLogger(log, call.call_sid)
    if recording.fault:
        call_log.error("the recording is broken off: %s", recording.fault)
    try:
        if call.file and (flac := encode_flac(call.file.path)):
            call_log.info("recorded in %s", flac)
        return not recording.fault
    except (AudioFileError, OSError) as error:
        call_log.error("the recording stays a WAV file: %s", error)
        return False
    finally:
        call.close()


def _finish_left_behind(path: Path) -> bool:
    """Finish a file unless a run that is alive has it locked; return whether nothing went wrong."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("a killed run has left a recording: %s", encode_flac(path) or "an empty one")
    except BlockingIOError:
        pass
    except (AudioFileError, OSError) as error:
        log.error("%s cannot be finished: %s", path, error)
        return False
    return True
