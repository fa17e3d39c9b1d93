"""Brings what waits in the spool into the database, again and again until it has arrived."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import DBAPIError

from app.calllog.database import Database, in_short, is_refusal
from app.calllog.entry import read_entry
from app.calllog.spool import Spool

log = logging.getLogger(__name__)

LINES_IN_MEMORY = 1_024
"""Records that wait while the spool cannot be written; of more the oldest are lost, which the log says."""
ANSWER_WITHIN_S = 15.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
EXPIRE_EVERY_S = 6 * 3_600.0


class Delivery:
    """What waits for the database: in memory until the spool has it, in the spool until the database has it.

    `orphans` are the spools of runs that were killed; `days` is how long calls are kept, 0 for ever.
    """

    def __init__(self, database: Database, spool: Spool, orphans: list[Spool], days: int) -> None:
        self._database, self._spool, self._orphans, self._days = database, spool, orphans, days
        self._lines: deque[str] = deque()
        self._work, self._stop = asyncio.Event(), asyncio.Event()
        self._is_migrated = False
        self.is_away = False
        """Whether the database does not take records."""
        self._is_full = False
        self.lost = 0
        """How many records did not find room."""
        self._expire_s = 0.0

    def add(self, line: str) -> None:
        """Take a record as a line; `beat` puts it into the spool."""
        self._lines.append(line)
        if len(self._lines) > LINES_IN_MEMORY:
            self._lines.popleft()
            self.lost += 1
            log.error("a record of a call is lost: %d wait in memory already", LINES_IN_MEMORY)

    @property
    def waiting(self) -> int:
        """How many records wait for the spool."""
        return len(self._lines)

    def beat(self) -> None:
        """Put what was added into the spool, and show that this run is alive."""
        try:
            while self._lines:
                self._spool.append(self._lines[0])
                self._lines.popleft()
                self._work.set()
            self._spool.touch()
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                log.error("%d records of calls wait in memory: %s", len(self._lines), error)
            self._is_full = True

    def stop(self) -> None:
        """Try once more, then let `run` return."""
        self._stop.set()
        self._work.set()

    async def run(self) -> None:
        """Deliver whenever there is something, until stopped."""
        pause_s, is_last = FIRST_PAUSE_S, False
        while not is_last:
            is_last = self._stop.is_set()
            self._work.clear()
            try:
                await self._deliver_all()
                await self._wait(self._work, EXPIRE_EVERY_S)
                pause_s = FIRST_PAUSE_S
            except Exception as error:  # whatever a driver raises, the next calls are to be kept as well
                self._tell_away(error)
                self._is_migrated = False  # it may come back as an empty one
                await self._wait(self._stop, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Let go of database and spools; an orphan stays one until its calls are closed."""
        await self._database.close()
        for orphan in self._orphans:
            orphan.close()
        self._spool.remove()

    async def _deliver_all(self) -> None:
        if not self._is_migrated:
            await self._database.migrate()
            self._is_migrated = True
        while self._orphans:
            await deliver_orphan(self._database, self._orphans[0])
            self._orphans.pop(0)
        delivered = await deliver(self._database, self._spool)
        self._spool.empty()
        if self.is_away:
            log.info("the call log's database is back; %d records written", delivered)
            self.is_away = False
        await self._expire(time.monotonic())

    async def _expire(self, now: float) -> None:
        if not self._days or now < self._expire_s:
            return
        self._expire_s = now + EXPIRE_EVERY_S
        async with asyncio.timeout(ANSWER_WITHIN_S):
            gone = await self._database.expire(datetime.now(UTC) - timedelta(days=self._days))
        if gone:
            log.info("%d calls that ended more than %d days ago are deleted", gone, self._days)

    def _tell_away(self, error: Exception) -> None:
        if not self.is_away:
            log.warning("the call log's database is away, records wait: %s", in_short(error))
        self.is_away = True

    async def _wait(self, event: asyncio.Event, limit_s: float) -> None:
        if not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), limit_s)


async def deliver(database: Database, spool: Spool) -> int:
    """Write what waits in a spool, the oldest first; return how many records it was."""
    delivered = 0
    while (line := spool.first()) is not None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await database.write(read_entry(line))
            spool.drop_first()
            delivered += 1
        except (ValueError, DBAPIError) as error:
            if not is_refusal(error):
                raise
            log.error("a record of a call is put aside in %s: %s", spool.reject_first(), in_short(error))
    return delivered


async def deliver_orphan(database: Database, orphan: Spool) -> None:
    """Write what a killed run left, end the calls that it left open, and remove its spool."""
    await deliver(database, orphan)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        closed = await database.close_killed(orphan.name, orphan.alive_at)
    if closed:
        log.warning("the service was killed with %d calls on; their records are closed", closed)
    orphan.remove()
