"""The runs of the service: a file each, locked as long as the run lives, so that the calls of a killed one are closed.

The system takes the lock away when a run dies, however it dies; when the file was last touched is when the run was last
alive. A file can hold records that could be left nowhere else (and, from earlier versions, `….spool`, all that waited).
"""

import contextlib
import fcntl
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.telemetry.call_log.spool import NAME, Spool

log = logging.getLogger(__name__)

SUFFIX = ".run"


class Run:
    """This run of the service: `name` is its own. Whatever touches the file may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self.folder = folder
        self._path = folder / f"{self.name}{SUFFIX}"
        self._descriptor = self._open()

    def touch(self) -> None:
        """Show that this run is alive; a file that somebody has removed is made again."""
        if not os.fstat(self._descriptor).st_nlink:
            descriptor, self._descriptor = self._descriptor, self._open()
            os.close(descriptor)
        os.utime(self._descriptor)

    def leave(self, lines: Sequence[str]) -> None:
        """Leave records in the file for the next start."""
        if not lines:
            return
        self.touch()
        rest = "".join(f"{line}\n" for line in lines).encode()
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, 0)
            raise

    def end(self) -> None:
        """Remove the file, unless records are left in it."""
        with contextlib.suppress(OSError):  # it is gone; or it stays, and stands for a dead run without calls
            if not os.fstat(self._descriptor).st_size:
                self._path.unlink()
        os.close(self._descriptor)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A run that was killed, or could not say that it ended."""

    name: str
    alive_at: datetime
    path: Path


@contextlib.contextmanager
def dead_runs(folder: Path, spool: Spool) -> Iterator[list[DeadRun]]:
    """Hold the dead runs, so that nobody else closes their calls; what they left is moved into the spool."""
    with contextlib.ExitStack() as stack:
        found: list[DeadRun] = []
        for path in sorted([*folder.glob(f"*{SUFFIX}"), *folder.glob("*.spool")]):
            if path.name == NAME or (descriptor := _lock(path)) is None:
                continue
            stack.callback(os.close, descriptor)
            found.append(DeadRun(path.stem, datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC), path))
            _move(descriptor, spool)
        yield found


def _lock(path: Path) -> int | None:
    """Open and lock the file of a run, None if the run lives or nobody can know."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("a run of the service cannot be closed, its records and open calls stay: %s", error)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _move(descriptor: int, spool: Spool) -> None:
    status = os.fstat(descriptor)
    if not status.st_size:
        return
    with os.fdopen(os.dup(descriptor), "rb") as file:
        spool.append(*file.read().decode(errors="replace").splitlines())
    os.ftruncate(descriptor, 0)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
