"""Functions that make a folder, for processes of their own."""

import os
import signal
import time
from pathlib import Path


def make(folder: Path) -> None:
    """Make it at once."""
    folder.mkdir()
    (folder / "made").write_text("whole")


def make_and_die(folder: Path) -> None:
    """Be killed half-way."""
    folder.mkdir()
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def make_slowly(folder: Path) -> None:
    """Take half a second and leave a line in a log beside the folder."""
    folder.mkdir()
    with (folder.parent / "log").open("a") as log:
        log.write("made\n")
    time.sleep(0.5)
