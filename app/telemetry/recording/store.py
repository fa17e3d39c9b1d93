"""The folder with the recordings.

A recording's name is when its stream was reserved, UTC, and the call's SID: 20261121T101530Z-CA….flac. A call that came
back has several. Nothing that comes from outside is made into a path: it is compared with the names that are there.
Files of other names belong to somebody else.
"""

import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from app.config import SettingsError

WAV, FLAC, TOKENS, PART = ".wav", ".flac", ".tokens", ".part"
SUFFIXES = (FLAC, WAV, TOKENS)
_OURS = re.compile(r"\d{8}T\d{6}Z-[0-9A-Za-z-]+\.[a-z]+")


class RecordingStore:
    """The recordings in `folder`. Every method reads the folder: not for the event loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Make the folder, for this user alone. Raises SettingsError if it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise SettingsError(f"RECORDINGS_DIR={self.folder}: {error.strerror}; choose a folder of yours") from error

    def path(self, name: str) -> Path:
        """Return the path without suffix of a recording that this service has named."""
        return self.folder / name

    def audio_of(self, call_sid: str, name: str = "") -> Path | None:
        """Return the recording of that name of a call, else its last one; None if there is none.

        It is a WAV file while it is not finished. A call has a recording for each of its streams.
        """
        files = self._files((f"-{call_sid}{FLAC}", f"-{call_sid}{WAV}"))
        wanted = [path for path in files if name in ("", _name(path))]
        return max(wanted, key=lambda path: (_name(path), path.suffix == FLAC), default=None)

    def names(self, end: str) -> list[str]:
        """Return the names of the recordings whose call's SID ends so, or the one that is this name."""
        names = {_name(path) for path in self._files(SUFFIXES)}
        return sorted(name for name in names if name == end or name.partition("-")[2].endswith(end))

    def of_calls(self, call_sids: Collection[str]) -> set[str]:
        """Return the names of all recordings of these calls, also those that the call log does not know."""
        names = {_name(path) for path in self._files((*SUFFIXES, PART))}
        return {name for name in names if name.partition("-")[2] in call_sids}

    def unfinished(self) -> list[Path]:
        """Return the WAV files: of calls that are on, or left by a killed run."""
        return sorted(self._files((WAV,)))

    def delete(self, names: Iterable[str]) -> int:
        """Delete recordings and their token logs; return how many there were."""
        wanted = set(names) - {""}
        files = [path for path in self._files((*SUFFIXES, PART)) if _name(path) in wanted]
        for path in files:
            path.unlink(missing_ok=True)
        return len({_name(path) for path in files})

    def count_old(self, before: datetime) -> tuple[int, int]:
        written = self._last_written()
        return sum(at_s < before.timestamp() for at_s in written.values()), len(written)

    def delete_old(self, before: datetime) -> int:
        return self.delete(name for name, at_s in self._last_written().items() if at_s < before.timestamp())

    def _last_written(self) -> dict[str, float]:
        written: dict[str, float] = {}
        for path in self._files(SUFFIXES):
            with suppress(FileNotFoundError):  # finished or forgotten just now
                written[_name(path)] = max(written.get(_name(path), 0.0), path.stat().st_mtime)
        return written

    def _files(self, ends: tuple[str, ...]) -> list[Path]:
        """Return our files that end so. There can be a hundred thousand: most are skipped at once."""
        try:
            names = [name for name in os.listdir(self.folder) if name.endswith(ends)]  # noqa: PTH208 - a tenth of the time
        except FileNotFoundError:
            return []
        return [self.folder / name for name in names if _OURS.fullmatch(name)]


def private(path: str, flags: int) -> int:
    """Open a file that nobody else may read."""
    return os.open(path, flags, 0o600)


def _name(path: Path) -> str:
    return path.name.partition(".")[0]
