"""Takes the records of calls from the manager into a thread of its own."""

import asyncio
import logging
import queue
import threading
import time
from datetime import UTC, datetime

from app.calls.record import CallRecord
from app.config import SettingsError
from app.logging import CallLog
from app.telemetry.call_log.address import Address, make_folders
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.delivery import RETRY_S, Delivery
from app.telemetry.call_log.entry import ClockReading, ServiceIdentity, make_entry
from app.telemetry.call_log.runs import Run
from app.telemetry.call_log.spool import Spool
from workers.messages import Slot

log = logging.getLogger(__name__)

INBOX_RECORDS = 1_024
"""Records that may wait for the thread; more are lost, which the log says."""
STOP_WITHIN_S = 8.0
"""How long the end of the service waits for a database that does not answer."""

Handed = tuple[CallRecord, Slot, ClockReading]


class CallLogWriter:
    """Takes records from the manager. `start` raises SettingsError if they cannot be kept anywhere.

    `days` is how long calls stay in the database, 0 for ever.
    """

    def __init__(self, address: Address, account_sid: str, checkpoint: str, days: int = 0) -> None:
        self._address, self._account_sid, self._checkpoint, self._days = address, account_sid, checkpoint, days
        self._inbox: queue.Queue[Handed] = queue.Queue(INBOX_RECORDS)
        self._news, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-log", daemon=True)
        self._delivery: Delivery | None = None
        self._lost = 0
        self._has_failed = False

    @property
    def is_away(self) -> bool:
        """Whether the database does not take records now."""
        return self._has_failed or (self._delivery is not None and self._delivery.is_away)

    @property
    def waiting(self) -> int:
        """How many records wait, in memory or on the disk."""
        return self._inbox.qsize() + (self._delivery.waiting if self._delivery else 0)

    @property
    def lost(self) -> int:
        """How many records are lost."""
        return self._lost + (self._delivery.lost if self._delivery else 0)

    def start(self) -> None:
        """Begin to write."""
        make_folders(self._address)
        try:
            run = Run(self._address.spool_folder)
        except OSError as error:
            raise SettingsError(f"DATABASE_URL: records of calls cannot wait: {error}") from error
        self._place = ServiceIdentity(run.name, self._account_sid, self._checkpoint)
        spool = Spool(self._address.spool_folder)
        self._delivery = Delivery(Database(self._address), spool, run, self._days)
        self._thread.start()
        log.info("calls are kept in %s", self._address)

    def keep(self, record: CallRecord, slot: Slot) -> None:
        """Take a record as it is now; never blocks."""
        clock = ClockReading(time.monotonic(), datetime.now(UTC))
        try:
            self._inbox.put_nowait((record.copy(), slot, clock))
        except queue.Full:
            self._lost += 1
            end = record.end or "it is on"
            CallLog(log, record.call_sid).error("the record of this call is lost (%s): too many wait already", end)
        self._news.set()

    async def stop(self) -> None:
        """Write what there is; what the database does not take soon is written at the next start."""
        self._stopping.set()
        self._news.set()
        await asyncio.to_thread(self._thread.join, STOP_WITHIN_S)
        if self._thread.is_alive() and self._delivery:
            self._take(self._delivery)
            self._delivery.leave()

    def _run(self) -> None:
        assert self._delivery
        try:
            while not self._stopping.is_set():
                self._news.clear()
                self._take(self._delivery)
                self._delivery.turn(time.monotonic(), datetime.now(UTC))
                self._news.wait(RETRY_S)
            self._take(self._delivery)
            self._delivery.finish(time.monotonic(), datetime.now(UTC))
        except Exception:  # the root of this thread: the calls go on
            self._has_failed = True
            log.exception("the call log has stopped; no more calls are kept")

    def _take(self, delivery: Delivery) -> None:
        while True:
            try:
                record, slot, clock = self._inbox.get_nowait()
            except queue.Empty:
                return
            try:
                delivery.add(make_entry(record, slot, self._place, clock))
            except Exception:
                self._lost += 1
                CallLog(log, record.call_sid).exception("the record of this call is lost: it cannot be made")
