"""A PostgreSQL server of our own, on a free port, in a temporary folder, as a user without rights."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.service_process import free_port
from tests.processes.pipeline import PATIENCE_S

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "calls"


class PostgresServer:
    """One server; `stop` and `start` as often as you like."""

    def __init__(self, folder: Path, owner: int | None) -> None:
        self._folder, self._owner, self._port = folder, owner, free_port()
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(folder / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        flags = ["-p", str(self._port), "-k", str(self._folder), "-h", "127.0.0.1", "-F"]
        command = [str(BINARIES[-1] / "postgres"), "-D", str(self._folder / "data"), *flags]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_owner())
        deadline_s = time.monotonic() + PATIENCE_S
        while self._call("pg_isready", "-q", *self._where()).returncode:
            assert time.monotonic() < deadline_s, (self._folder / "log").read_text()

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_S)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that takes connections."""
        assert self._process
        self._process.send_signal(number)

    def new_database(self) -> str:
        """Return the URL of an empty one."""
        self._databases += 1
        name = f"calls_{self._databases}"
        self._run("createdb", *self._where(), "-U", USER, name)
        return f"postgresql://{USER}@127.0.0.1:{self._port}/{name}"

    def _where(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self._port))

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        assert done.returncode == 0, done.stderr.decode()

    def _call(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([BINARIES[-1] / program, *arguments], **self._as_owner(), capture_output=True)

    def _as_owner(self) -> dict[str, Any]:
        return {"cwd": self._folder, "user": self._owner, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Start a server; skip the test where there is none to start."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if owner is not None:
        os.chown(folder, owner, -1)
    try:
        server = PostgresServer(folder, owner)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
