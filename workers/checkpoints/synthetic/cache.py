"""Folders that are there in full or not at all, whoever else makes the same one or is killed while making it."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def fingerprint() -> str:
    """Return 12 hexadecimal digits that change with anything the stand-ins are made from."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".wav", ".json"):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; the kernel gives back that of a process that died."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`, made by `make` under another name unless it is there.

    `make` gets the place to write a file or a folder to; what a killed process left there is removed first.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with _locked(path.with_name(path.name + ".lock")):
        if not path.exists():
            _remove(unfinished)
            make(unfinished)
            unfinished.rename(path)
    return path


def share(path: Path, place: Path) -> None:
    """Put a file of the cache at `place` too, without another copy where the file system can."""
    try:
        place.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, place)
