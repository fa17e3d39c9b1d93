"""Folders that exist in full or not at all, whoever else makes the same one or is killed while making it."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def fingerprint() -> str:
    """Return 12 hexadecimal digits that change with anything that synthetic checkpoints are made from."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".wav", ".json"):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`; unless it exists, `make` makes it, file or folder, under another name.

    Other processes wait meanwhile, by a lock that the kernel releases when its process dies. What a killed process left
    is removed first.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(path)
    return path


def share(path: Path, copy: Path) -> None:
    """Put a file of the cache at `copy` too, without a second copy of its bytes where the file system can."""
    try:
        copy.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, copy)
