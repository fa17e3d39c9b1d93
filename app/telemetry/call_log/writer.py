"""The thread that writes records into the database, or into the spool while the database is away."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from app.calls.record import CallRecord
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import CallEntry
from app.telemetry.call_log.from_record import ServiceIdentity, clock_zero, make_entry
from app.telemetry.call_log.spool import deliver_dead_spools, deliver_spool, log_lost, open_spool
from app.telemetry.call_log.transactions import CallLogError, RecordRefused
from app.telemetry.expiry import Expiry
from workers.messages import Slot

log = logging.getLogger(__name__)

MAX_QUEUED = 1_024
"""Records that may wait in memory; more are lost."""
RETRY_S = 5.0
"""Pause after the database did not accept a record."""
READ_FORGOTTEN_EVERY_S = 30.0
"""How often the calls that `moshi-bridge forget` has deleted are read."""
STOP_LIMIT_S = 8.0
"""How long the end of the service waits for a database that does not answer."""


class CallLogWriter:
    """Writes the records of calls, the oldest first: what waits in the spool, then what waits in memory.

    `days` is how long calls stay in the database, 0 for ever. A record leaves memory when it is written or cannot be.
    """

    def __init__(self, address: Address, account_sid: str, checkpoint: str, days: int = 0) -> None:
        self._address, self._database = address, Database(address)
        self._account_sid, self._checkpoint = account_sid, checkpoint
        self._expiry = Expiry(self._database, "calls", days, address.spool_folder / "expiry-put-off")
        self.on_forgotten: Callable[[set[str]], object] = lambda call_sids: None
        """Called by the thread, from time to time, with the SIDs of all calls that were forgotten lately."""
        self._queue: deque[tuple[CallRecord, Slot, datetime]] = deque()
        """Copies of records, and when the monotonic clock was 0."""
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-log", daemon=True)
        self.is_away = False
        """Whether the database does not accept records."""
        self.lost = 0
        self._spooled = 0
        self._is_prepared = False
        self._retry_s = self._read_forgotten_s = 0.0
        self._disk_fault = ""

    @property
    def waiting(self) -> int:
        return len(self._queue) + self._spooled

    def open(self) -> None:
        """Open the spool. Raises SettingsError if records can be kept nowhere."""
        self._spool = open_spool(self._address.spool_folder)
        self._service = ServiceIdentity(self._spool.run, self._account_sid, self._checkpoint)

    def start(self) -> None:
        """Open the spool and begin to write. Raises SettingsError."""
        self.open()
        self._thread.start()
        log.info("calls are kept in %s", self._address)

    def add(self, record: CallRecord, slot: Slot) -> None:
        """Queue a copy of a record; never blocks."""
        if len(self._queue) >= MAX_QUEUED:
            self._lose(record, "too many wait already")
        else:
            self._queue.append((record.copy(), slot, clock_zero()))
        self._wake.set()

    async def stop(self) -> None:
        """Write what there is; what the database does not accept soon is written at the next start."""
        self._stopping.set()
        self._wake.set()
        await asyncio.to_thread(self._thread.join, STOP_LIMIT_S)
        if self._thread.is_alive():
            self._save()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self.deliver(time.monotonic(), datetime.now(UTC))
                self._wake.wait(RETRY_S)
            self.finish(time.monotonic(), datetime.now(UTC))
        except Exception:  # the root of this thread: the calls go on
            self.is_away = True
            log.exception("the call log has stopped; no more calls are kept")

    def deliver(self, now: float, utc: datetime) -> None:
        """Write what there is, wherever it is accepted; `now` is in seconds, monotonic. For the thread."""
        try:
            if now >= self._retry_s:
                self._deliver(now, utc)
        except CallLogError as error:
            if not self.is_away:
                log.warning("the call log's database is away, records wait: %s", error)
            self.is_away, self._is_prepared = True, False  # it may come back as an empty one
            self._retry_s = now + RETRY_S
        self._save()

    def finish(self, now: float, utc: datetime) -> None:
        """Write what there is a last time; the next start writes what waits in the spool. For the thread."""
        self._retry_s = now
        self.deliver(now, utc)
        for record, *_ in self._queue:
            self._lose(record, self._disk_fault)
        self._spool.close()

    def _deliver(self, now: float, utc: datetime) -> None:
        with self._disk_faults_logged():
            if not self._is_prepared:
                self._database.migrate()
                self.lost += deliver_dead_spools(self._database, self._address.spool_folder)
                self._is_prepared = True
            if self._spooled:
                self.lost += deliver_spool(self._database, self._spool)
                self._spooled = 0
        self._drain(self._database.write)
        if self.is_away:
            log.info("the call log's database is back")
        self.is_away = False
        with self._disk_faults_logged():
            self._expiry.run(now, utc)
        if now >= self._read_forgotten_s:
            self._read_forgotten_s = now + READ_FORGOTTEN_EVERY_S
            if forgotten := self._database.forgotten():
                self.on_forgotten(forgotten)

    def _save(self) -> None:
        """Show that this run is alive; while the database is away move what is in memory into the spool."""
        with self._disk_faults_logged():
            self._spool.touch()
            if self.is_away or self._stopping.is_set():
                self._drain(self._append)
            self._disk_fault = ""

    def _append(self, entry: CallEntry) -> None:
        self._spool.append(entry.as_line())
        self._spooled += 1

    def _drain(self, write: Callable[[CallEntry], None]) -> None:
        while self._queue:
            record, slot, zero = self._queue[0]
            try:
                write(make_entry(record, slot, self._service, zero))
            except RecordRefused as error:
                self._lose(record, error)
            except (CallLogError, OSError):
                raise
            except Exception as error:
                log.exception("a record of a call cannot be made")
                self._lose(record, error)
            with contextlib.suppress(IndexError):  # `stop` has saved it meanwhile
                self._queue.popleft()

    @contextlib.contextmanager
    def _disk_faults_logged(self) -> Iterator[None]:
        """Log that the disk is full or away, once until it is not."""
        try:
            yield
        except OSError as error:
            if not self._disk_fault:
                log.error("records of calls cannot wait on the disk, %d wait in memory: %s", len(self._queue), error)
            self._disk_fault = str(error)

    def _lose(self, record: CallRecord, reason: object) -> None:
        self.lost += 1
        log_lost(record.call_sid, record.end, reason)
