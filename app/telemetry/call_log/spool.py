"""The spool: one file of lines in which records wait for a database that is away, for all runs of the service.

Who writes or delivers holds a lock on the file for as long as that takes. Nobody waits for the lock: BlockingIOError
says that another process has it. Whatever touches the file may raise OSError.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_BYTES = 256 << 20
"""About a thousand calls of an hour."""
NAME = "waiting.spool"


class SpoolFull(OSError):
    """No more records can wait."""


class Spool:
    """The spool in a folder; both are made when they are needed."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = folder / NAME, max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        try:
            return self._path.stat().st_size == 0
        except FileNotFoundError:
            return True

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file; what was delivered leaves an empty one."""
        return not self._path.exists()

    def append(self, *lines: str) -> None:
        """Add lines. Raises SpoolFull or another OSError, and then has added none."""
        with self._locked(os.O_CREAT) as descriptor:
            end = os.fstat(descriptor).st_size
            cut_short = end and os.pread(descriptor, 1, end - 1) != b"\n"  # its writer was killed
            rest = b"\n" * bool(cut_short) + "".join(f"{line}\n" for line in lines).encode()
            if end + len(rest) > self._max_bytes:
                raise SpoolFull(f"{self._max_bytes} bytes of records wait already")
            try:
                while rest:
                    rest = rest[os.pwrite(descriptor, rest, os.fstat(descriptor).st_size) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise

    def deliver(self, take: Callable[[str], None]) -> int:
        """Give every line to `take`, the oldest first, and empty the file; return how many it was.

        What `take` raises is raised here, and everything stays: it is given again, also what has been taken already.
        """
        if self.is_empty:
            return 0
        with self._locked() as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            delivered = 0
            for line in file:
                take(line.decode(errors="replace").rstrip("\n"))
                delivered += 1
            os.ftruncate(descriptor, 0)
            return delivered

    @contextlib.contextmanager
    def _locked(self, flags: int = 0) -> Iterator[int]:
        if flags:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_RDWR | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield descriptor
        finally:
            os.close(descriptor)
