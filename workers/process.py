"""One worker process: started together with its sockets, its link on the event loop, and how it ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.control_messages import FromWorker, ToWorker, WorkerVitals
from workers.link import Link, LinkClosed, pair
from workers.messages import Stage

ALLOWED = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LANGUAGE", "TERM"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("VIRTUAL_ENV", "CC", "CFLAGS", "LDFLAGS", "SDKROOT", "DEVELOPER_DIR"),
}
"""Environment variables of paths and of the network, which a worker may have."""
ALLOWED_PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "LD_", "DYLD_"),
    *("CUDA", "NVIDIA_", "MLX_", "METAL_", "MTL_", "OMP_", "OPENBLAS_", "MKL_", "BLIS_", "VECLIB_", "KMP_", "RAYON_"),
)
ALLOWED_FOR_DOWNLOADS = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_")
"""Hugging Face's settings, its token among them: for the engine, which downloads the checkpoint."""


def worker_environment(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a worker inherits of `environment`: by an allow-list, so that no secret of the service is in it.

    Libraries start no threads of their own, and the codec computes in full float32.
    """
    prefixes = (*ALLOWED_PREFIXES, *(ALLOWED_FOR_DOWNLOADS if name == Stage.STEP else ()))
    allowed = [key for key in environment if key.upper() in ALLOWED or key.upper().startswith(prefixes)]
    threads = {"RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    exact = {"MLX_ENABLE_TF32": "0"} if name in (Stage.ENCODE, Stage.DECODE) else {}
    return {**{key: environment[key] for key in allowed}, **threads, **exact}


class LoopLink:
    """A link on the running event loop; `on_message` gets every message that arrives."""

    def __init__(self, sock: socket.socket, on_message: Callable[[Any], None]) -> None:
        self._loop, self._link, self._on_message = asyncio.get_running_loop(), Link(sock), on_message
        self._loop.add_reader(self._link, self.read)

    @property
    def dropped(self) -> int:
        """Audio messages dropped because the other end did not keep up."""
        return self._link.dropped

    def send(self, message: object) -> None:
        """Never waits; messages for a process that has ended are lost."""
        with contextlib.suppress(LinkClosed):
            self._link.send(message)
            if self._link.blocked:
                self._loop.add_writer(self._link, self._flush)

    def read(self) -> None:
        """Handle the messages that have arrived, also those that the other end sent before it ended."""
        if self._link.fileno() < 0:
            return
        try:
            messages = self._link.receive()
        except LinkClosed:  # noticed by the exit of the process
            self._loop.remove_reader(self._link)
            return
        for message in messages:
            self._on_message(message)

    def close(self) -> None:
        if self._link.fileno() >= 0:
            self._loop.remove_reader(self._link)
            self._loop.remove_writer(self._link)
            self._link.close()

    def _flush(self) -> None:
        with contextlib.suppress(LinkClosed):
            self._link.flush()
            if self._link.blocked:
                return
        self._loop.remove_writer(self._link)


class WorkerProcess:
    """A process that runs `workers.worker`, and the control link to it; `name` is that of its stage.

    `on_control` gets its control messages, on the event loop that started it. `ready`, `refusal` and `vitals` are set
    by the supervisor.
    """

    def __init__(self, name: str, on_control: Callable[[FromWorker], None]) -> None:
        self._name, self._on_control = name, on_control
        self.ready = False
        self.refusal: str | None = None
        self.vitals: WorkerVitals | None = None
        """As of its last answer to a ping; None until then."""
        self.exit: asyncio.Task[int] | None = None
        """Done once the process has ended; its result is the exit status."""
        self._process: asyncio.subprocess.Process | None = None
        self._control: LoopLink | None = None

    async def start(self, links: Sequence[socket.socket]) -> None:
        """Start the process; it inherits `links`, which the caller closes afterwards. Raises OSError."""
        ours, theirs = pair()
        descriptors = [theirs.fileno(), *(link.fileno() for link in links)]
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "workers.worker", *map(str, descriptors)),
                    stdin=subprocess.PIPE,  # its end tells the worker that we are gone, however we went
                    pass_fds=descriptors,
                    start_new_session=True,
                    env=worker_environment(self._name, os.environ),
                )
            except BaseException:
                ours.close()
                raise
        self.exit = asyncio.create_task(self._process.wait())
        self._control = LoopLink(ours, self._on_control)

    def send(self, message: ToWorker) -> None:
        if self._control:
            self._control.send(message)

    def read_control(self) -> None:
        """Handle the control messages that have arrived; to be called once more after the process has ended."""
        if self._control:
            self._control.read()

    def close(self) -> None:
        """Close the control link, which ends a worker between two units of work."""
        if self._control:
            self._control.close()

    def kill(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def ending(self) -> str:
        """By which signal the process ended, or with which exit status."""
        status = self._process.returncode if self._process else None
        if status is None or status >= 0:
            return f"exit status {status}"
        names = {number.value: number.name for number in signal.Signals}
        return f"killed by {names.get(-status, f'signal {-status}')}"
