"""Folders for Unix sockets: their paths are short by law of the kernel, 104 bytes on macOS and 108 on Linux."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder with a short path; macOS's own place for temporary files takes 50 bytes, pytest's more than 100."""
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as folder:
        yield Path(folder)
