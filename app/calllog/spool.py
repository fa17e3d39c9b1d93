"""Where records wait for the database: a file of lines, one for each run of the service.

The file is locked as long as the run lives; the system takes the lock away when it dies, however it dies. Only one
thread uses it.
"""

import fcntl
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

MAX_BYTES = 256 << 20
"""About a thousand calls of an hour."""
BLOCK = 1 << 16
SUFFIX = ".spool"
REJECTED = "rejected.jsonl"


class SpoolFull(OSError):
    """No more records can wait."""


class Spool:
    """Lines in the order in which they came. `name` is the run's own; whatever touches the file may raise OSError."""

    def __init__(self, path: Path, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._descriptor, self._max_bytes = path, descriptor, max_bytes
        self._done = 0
        self.alive_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        """When the run that filled it was last alive, if it was found."""

    @classmethod
    def create(cls, folder: Path, max_bytes: int = MAX_BYTES) -> Self:
        """Make one for this run."""
        path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(path, descriptor, max_bytes)

    @classmethod
    def adopt(cls, folder: Path) -> list[Self]:
        """Take over those whose run is dead."""
        return [spool for path in sorted(folder.glob(f"*{SUFFIX}")) if (spool := cls._adopt(path))]

    @classmethod
    def _adopt(cls, path: Path) -> Self | None:
        descriptor = None
        try:
            descriptor = os.open(path, os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):  # its run is alive, or somebody else was faster
            if descriptor is not None:
                os.close(descriptor)
            return None

    @property
    def name(self) -> str:
        return self._path.name.removesuffix(SUFFIX)

    def append(self, line: str) -> None:
        """Add a line. Raises SpoolFull or OSError, and then has not."""
        end, rest = self._size(), line.encode() + b"\n"
        if end + len(rest) > self._max_bytes:
            raise SpoolFull(f"{self._max_bytes} bytes of records wait already")
        try:
            while rest:
                rest = rest[os.pwrite(self._descriptor, rest, self._size()) :]
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def first(self) -> str | None:
        """Return the oldest line that waits, None if none does."""
        line = self._first()
        return line.decode(errors="replace").rstrip("\n") if line else None

    def drop_first(self) -> None:
        """Let go of the oldest line: it has arrived."""
        self._done += len(self._first())

    def empty(self) -> None:
        """Give the space back, if every line has arrived."""
        if self._done == self._size():
            os.ftruncate(self._descriptor, 0)
            self._done = 0

    def touch(self) -> None:
        """Show that this run is alive."""
        os.utime(self._descriptor)

    def reject_first(self) -> Path:
        """Put the oldest line, which no database takes, where a person can look at it; return where."""
        path = self._path.with_name(REJECTED)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a") as file:
            file.write(f"{self.first()}\n")
        self.drop_first()
        return path

    def close(self) -> None:
        """Let go of the file; it can be adopted."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Let go of the file and delete it, unless something waits in it."""
        if not self._first():
            self._path.unlink()
        self.close()

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _first(self) -> bytes:
        """Return the oldest line with its end, which the last one lacks if its writer was killed."""
        line = b""
        while b"\n" not in line and (part := os.pread(self._descriptor, BLOCK, self._done + len(line))):
            line += part
        return line[: line.find(b"\n") + 1] or line


def forget_rejected(folder: Path, number: str) -> None:
    """Delete the rejected lines that hold this number."""
    path = folder / REJECTED
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if number not in line))


def is_waiting(folder: Path, number: str) -> bool:
    """Whether a record with this number has still to be written by a run that lives."""
    return any(number in path.read_text(errors="replace") for path in folder.glob(f"*{SUFFIX}"))
