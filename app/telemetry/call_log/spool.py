"""The spool: a file of lines, one a run of the service, in which records wait while the database accepts none.

It is locked as long as its run lives; the system unlocks it when the run dies, however it dies. Its date is when the
run was last alive.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from app.config import SettingsError
from app.logging import CallLogger
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import read_entry
from app.telemetry.call_log.transactions import RecordRefused
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
"""Of all spools in a folder: about a thousand calls of an hour."""


class SpoolFull(OSError):
    """No more records can wait."""


class Spool:
    """The spool of one run. Whatever touches the file may raise OSError; BlockingIOError if a living run has it."""

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, path.stem
        self._file = self._open()

    @property
    def alive_at(self) -> datetime:
        return datetime.fromtimestamp(os.fstat(self._file.fileno()).st_mtime, UTC)

    def touch(self) -> None:
        """Show that the run is alive. A file that somebody has removed is made again."""
        if not os.fstat(self._file.fileno()).st_nlink:
            file, removed = self._open(), self._file
            with removed:
                removed.seek(0)
                shutil.copyfileobj(removed, file)
            self._file = file
        os.utime(self._file.fileno())

    def append(self, line: str) -> None:
        """Add a line. Raises SpoolFull or another OSError, and then has added nothing."""
        self.touch()
        data, end = f"{line}\n".encode(), os.fstat(self._file.fileno()).st_size
        if _bytes_in(self.path.parent) + len(data) > MAX_BYTES:
            raise SpoolFull(f"{MAX_BYTES} bytes of records wait already")
        try:
            while data:
                data = data[os.write(self._file.fileno(), data) :]
        except OSError:
            os.ftruncate(self._file.fileno(), end)
            raise

    def lines(self) -> Iterator[str]:
        """Yield what waits, the oldest first; the last line of a killed run may be cut short."""
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            file.seek(0)
            yield from (line.decode(errors="replace") for line in file)

    def clear(self) -> None:
        os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        """Unlock it, and remove the file if nothing waits."""
        with contextlib.suppress(OSError), self._file as file:
            if not os.fstat(file.fileno()).st_size:
                self.path.unlink()

    def _open(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = FileIO(self.path, "a+", opener=lambda path, flags: os.open(path, flags, 0o600))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return file


def open_spool(folder: Path) -> Spool:
    """Open the spool of a new run. Raises SettingsError if records cannot wait in this folder."""
    try:
        return Spool(folder / f"{uuid.uuid4().hex}.spool")
    except OSError as error:
        where = f"{error.filename}: {error.strerror}"
        raise SettingsError(
            f"DATABASE_URL: records of calls cannot wait in {where}; or set DATABASE_URL=off"
        ) from error


def dead_spools(folder: Path) -> Iterator[Spool]:
    """Yield the spools of runs that live no more, each locked until the next is asked for."""
    for path in _spools(folder):
        try:
            spool = Spool(path)
        except BlockingIOError:
            continue
        except OSError as error:
            log.warning("a run of the service cannot be closed, its records and open calls stay: %s", error)
            continue
        with contextlib.closing(spool):
            yield spool


def records_wait(folder: Path) -> bool:
    return _bytes_in(folder) > 0


def deliver_dead_spools(database: Database, folder: Path) -> int:
    """Write what dead runs of the service left, and end the calls that they left open; return how many are lost."""
    lost = 0
    for spool in dead_spools(folder):
        alive_at = spool.alive_at
        lost += deliver_spool(database, spool)
        if closed := database.close_killed(spool.run, alive_at):
            log.warning("the service was killed with %d calls on; their records are closed", closed)
    return lost


def deliver_spool(database: Database, spool: Spool) -> int:
    """Write what waits in a spool, the oldest first, and clear it; return how many records are lost."""
    written = lost = 0
    for line in spool.lines():
        try:
            entry = read_entry(line)
        except ValueError as error:
            log.error("the record of a call is lost: half a line waited: %s", error)
            lost += 1
            continue
        try:
            database.write(entry)
            written += 1
        except RecordRefused as error:
            log_lost(entry.call_sid, entry.end_reason, error)
            lost += 1
    spool.clear()
    if written:
        log.info("%d records of calls that waited are written", written)
    return lost


def log_lost(call_sid: str, end: str | None, reason: object) -> None:
    CallLogger(log, CallSid(call_sid)).error("the record of this call is lost (%s): %s", end or "it was on", reason)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in _spools(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _spools(folder: Path) -> list[Path]:
    """Return all spools; earlier versions named some `….run`."""
    return sorted([*folder.glob("*.spool"), *folder.glob("*.run")])
