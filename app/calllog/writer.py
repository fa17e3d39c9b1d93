"""Takes the records of calls from the switchboard into a thread of its own, with a loop of its own."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from datetime import UTC, datetime

from app.call.record import CallRecord
from app.calllog.address import Address, make_folders
from app.calllog.database import Database
from app.calllog.delivery import Delivery
from app.calllog.entry import Clock, Place, row_of
from app.calllog.spool import Spool
from app.log import CallLog
from workers.messages import Slot

log = logging.getLogger(__name__)

INBOX_RECORDS = 1_024
"""Records that may wait for the thread; more are lost, which the log says."""
KEEP_ALIVE_S = 5.0
STOP_WITHIN_S = 5.0

Handed = tuple[CallRecord, Slot, Clock]


class CallLogWriter:
    """Takes records from the switchboard. `start` raises SettingsError if they cannot be kept anywhere.

    `days` is how long calls stay in the database, 0 for ever.
    """

    def __init__(self, address: Address, account_sid: str, checkpoint: str, days: int = 0) -> None:
        self._address, self._account_sid, self._checkpoint, self._days = address, account_sid, checkpoint, days
        self._inbox: queue.Queue[Handed] = queue.Queue(INBOX_RECORDS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-log", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._delivery: Delivery | None = None
        self._unheard = 0
        self._has_stopped = False

    @property
    def is_away(self) -> bool:
        """Whether the database does not take records now."""
        return self._has_stopped or (self._delivery is not None and self._delivery.is_away)

    @property
    def waiting(self) -> int:
        """How many records wait in memory, for the thread or for the spool."""
        return self._inbox.qsize() + (self._delivery.waiting if self._delivery else 0)

    @property
    def lost(self) -> int:
        """How many records are lost."""
        return self._unheard + (self._delivery.lost if self._delivery else 0)

    def start(self) -> None:
        """Open the spool and begin to write."""
        make_folders(self._address)
        orphans = Spool.adopt(self._address.spool_folder)
        spool = Spool.create(self._address.spool_folder)
        self._place = Place(spool.name, self._account_sid, self._checkpoint)
        self._delivery = Delivery(Database(self._address), spool, orphans, self._days)
        self._thread.start()
        log.info("calls are kept in %s", self._address)

    def keep(self, record: CallRecord, slot: Slot) -> None:
        """Take a record as it is now; never blocks."""
        clock = Clock(time.monotonic(), datetime.now(UTC))
        try:
            self._inbox.put_nowait((record.copy(), slot, clock))
        except queue.Full:
            self._unheard += 1
            CallLog(log, record.call_sid).error("not kept: %d records wait already", INBOX_RECORDS)
        self._wake()

    async def stop(self) -> None:
        """Write what there is, if the database takes it soon; what it does not take is written at the next start."""
        self._stopping.set()
        self._wake()
        await asyncio.to_thread(self._thread.join, 2 * STOP_WITHIN_S)

    def _wake(self) -> None:
        if loop := self._loop:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                loop.call_soon_threadsafe(self._news.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._write())
        except Exception:
            self._has_stopped = True
            log.exception("the call log has stopped; no more calls are kept")

    async def _write(self) -> None:
        assert self._delivery is not None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        delivering = asyncio.create_task(self._delivery.run())
        while not self._stopping.is_set():
            self._take()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), KEEP_ALIVE_S)
            self._news.clear()
        self._take()
        self._delivery.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(delivering, STOP_WITHIN_S)
        await self._delivery.close()

    def _take(self) -> None:
        assert self._delivery is not None
        with contextlib.suppress(queue.Empty):
            while True:
                record, slot, clock = self._inbox.get_nowait()
                self._delivery.add(row_of(record, slot, self._place, clock).as_line())
        self._delivery.beat()
