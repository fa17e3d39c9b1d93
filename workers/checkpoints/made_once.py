"""A file or folder of the cache that is made once, whoever asks for it first, and exists in full or not at all."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


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
