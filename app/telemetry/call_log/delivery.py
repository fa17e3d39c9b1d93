"""Brings records into the database at once, or into the spool while the database is away. No thread, no clock."""

import logging
from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from app.logging import CallLog
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.engine import CallLogError, RecordRefused
from app.telemetry.call_log.entry import CallEntry, read_entry
from app.telemetry.call_log.runs import Run, dead_runs
from app.telemetry.call_log.spool import Spool
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

RECORDS_IN_MEMORY = 1_024
"""Records that wait while neither database nor spool takes them; of more the oldest are lost."""
RETRY_S = 5.0
"""Pause after the database did not take a record."""
EXPIRE_EVERY_S = 6 * 3_600.0


class Delivery:
    """The records that are on their way, oldest first. `days` is how long calls are kept, 0 for ever.

    `now` is in seconds, monotonic.
    """

    def __init__(self, database: Database, spool: Spool, run: Run, days: int) -> None:
        self._database, self._spool, self._run, self._days = database, spool, run, days
        self._entries: deque[CallEntry] = deque()
        self._spooled: list[CallEntry] = []  # without what was said and happened, to say what is lost
        self.is_away = False
        """Whether the database does not take records."""
        self.lost = 0
        """How many records are lost."""
        self._is_prepared = self._has_put_off = False
        self._retry_s = self._expire_s = 0.0
        self._trouble = ""

    @property
    def waiting(self) -> int:
        """How many records wait, in memory and in the spool."""
        return len(self._entries) + len(self._spooled)

    def add(self, entry: CallEntry) -> None:
        """Take a record."""
        self._entries.append(entry)
        if len(self._entries) > RECORDS_IN_MEMORY:
            self._lose(self._entries.popleft(), "neither database nor disk took it")

    def turn(self, now: float, utc: datetime) -> None:
        """Write what there is wherever it is taken."""
        self._look_for_spool()
        if now >= self._retry_s:
            try:
                self._deliver(now, utc)
            except CallLogError as error:
                self._set_away(error, now)
        if self.is_away:
            self._save()
        self._touch()

    def finish(self, now: float, utc: datetime) -> None:
        """Write what there is a last time; the next start brings in what waits on the disk."""
        self._retry_s = now
        self.turn(now, utc)
        self._save()
        self.leave()
        while self._entries:
            self._lose(self._entries.popleft(), self._trouble)
        self._run.end()

    def leave(self) -> None:
        """Leave what is in memory in the file of this run."""
        try:
            self._run.leave([entry.as_line() for entry in tuple(self._entries)])
            self._entries.clear()
        except OSError as error:
            self._trouble = self._trouble or str(error)

    def _deliver(self, now: float, utc: datetime) -> None:
        if not self._is_prepared:
            self._database.migrate()
        if not self._deliver_spool():
            return
        while self._entries:
            entry = self._entries[0]
            try:
                self._database.write(entry)
            except RecordRefused as error:
                self._lose(entry, str(error))
            self._entries.popleft()
        if self.is_away:
            log.info("the call log's database is back")
        self.is_away = False
        self._expire(now, utc)

    def _deliver_spool(self) -> bool:
        """Deliver what waits on the disk; return whether nothing does that another process is delivering."""
        try:
            if not self._is_prepared:
                settle(self._database, self._run.folder, self._spool)
                self._is_prepared = True
            delivered, lost = deliver(self._database, self._spool)
        except BlockingIOError:
            return False
        except OSError as error:
            self._tell_trouble(error)
            return True
        self.lost += lost
        self._spooled.clear()
        if delivered:
            log.info("%d records of calls that waited are written", delivered)
        return True

    def _save(self) -> None:
        """Put what is in memory into the spool."""
        if not self._entries:
            return
        try:
            self._spool.append(*(entry.as_line() for entry in self._entries))
            self._spooled += [replace(entry, pieces=[], events=[]) for entry in self._entries]
            self._entries.clear()
            self._trouble = ""
        except BlockingIOError:
            return
        except OSError as error:
            self._tell_trouble(error)

    def _look_for_spool(self) -> None:
        if self._spooled and self._spool.is_gone:
            for entry in self._spooled:
                self._lose(entry, "somebody has removed the file in which it waited")
            self._spooled.clear()

    def _touch(self) -> None:
        try:
            self._run.touch()
        except OSError as error:
            self._tell_trouble(error)

    def _expire(self, now: float, utc: datetime) -> None:
        if not self._days or now < self._expire_s:
            return
        self._expire_s = now + EXPIRE_EVERY_S
        gone, put_off = self._database.expire(utc - timedelta(days=self._days), utc)
        if gone:
            log.info("%d calls that ended more than %d days ago are deleted", gone, self._days)
        if put_off and not self._has_put_off:
            log.warning(
                "%d calls, most of those that are kept, ended more than CALL_LOG_DAYS=%d days ago: "
                "they are deleted in a day if the clock is still the same; is it right?",
                put_off,
                self._days,
            )
        self._has_put_off = bool(put_off)

    def _set_away(self, error: CallLogError, now: float) -> None:
        if not self.is_away:
            log.warning("the call log's database is away, records wait: %s", error)
        self.is_away, self._is_prepared = True, False  # it may come back as an empty one
        self._retry_s = now + RETRY_S

    def _tell_trouble(self, error: OSError) -> None:
        if not self._trouble:
            log.error("records of calls cannot wait on the disk, %d wait in memory: %s", len(self._entries), error)
        self._trouble = str(error)

    def _lose(self, entry: CallEntry, why: str) -> None:
        self.lost += 1
        tell_lost(entry, why)


def settle(database: Database, folder: Path, spool: Spool) -> None:
    """Write what waits, and end the calls that killed runs have left open."""
    with dead_runs(folder, spool) as runs:
        deliver(database, spool)
        for run in runs:
            if closed := database.close_killed(run.name, run.alive_at):
                log.warning("the service was killed with %d calls on; their records are closed", closed)
            run.path.unlink(missing_ok=True)


def deliver(database: Database, spool: Spool) -> tuple[int, int]:
    """Write what waits in the spool, the oldest first; return how many records are written and how many are lost."""
    lost = 0

    def take(line: str) -> None:
        nonlocal lost
        try:
            entry = read_entry(line)
        except ValueError as error:
            log.error("the record of a call is lost: half a line waited: %s", error)
            lost += 1
            return
        try:
            database.write(entry)
        except RecordRefused as error:
            tell_lost(entry, str(error))
            lost += 1

    return spool.deliver(take) - lost, lost


def tell_lost(entry: CallEntry, why: str) -> None:
    """Say that a record is lost, and what it was."""
    end = entry.end_reason or "it was on"
    CallLog(log, CallSid(entry.call_sid)).error("the record of this call is lost (%s): %s", end, why)
