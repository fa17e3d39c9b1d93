"""Starts the workers, watches them, starts them again.

One task a worker: start, wait for its end, report the loss, back off, again. A worker that says it cannot run as
configured before it was ever ready ends the service (`WorkerRefused`); one that answers no ping is killed, which is a
loss like any other. The engine starts first, because it finds the checkpoint and the number of slots; the codec
workers follow.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from workers.link import Link, LinkClosed, pair
from workers.messages import (
    Ping,
    PipelineMessage,
    Pong,
    Prepared,
    Progress,
    Ready,
    Refused,
    Stage,
    Vitals,
    WorkerConfig,
)
from workers.pipeline import AppEnd, WorkerName, connect, edges

log = logging.getLogger(__name__)

PING_EVERY_S = 5.0
UNANSWERED_PINGS = 4
BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STOP_WITHIN_S = 3.0
HOPELESS_STARTS = 4
NOT_FOR_WORKERS = ("TWILIO_", "TUNNEL_", "OPERATOR_", "DATABASE_")
"""How the settings begin that hold secrets; workers need none of them."""


class WorkerRefused(Exception):
    """A worker cannot run with these settings; the message is one line that names the setting."""


@dataclass
class Worker:
    """One worker process as the supervisor sees it."""

    name: WorkerName
    config: WorkerConfig
    process: asyncio.subprocess.Process | None = None
    control: Link | None = None
    ready: bool = False
    was_ready: bool = False
    failures: int = 0
    pings: int = 0
    pongs: int = 0
    note: str = ""
    losses: int = 0
    """How often it was gone."""
    vitals: Vitals | None = None
    """As of its last answer to a ping; None until then."""
    refusal: str | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs the ring's workers.

    `on_message` gets what comes round the ring, `on_lost` the name of a worker that has died, `on_progress` how far a
    long start has come; all on the event loop that `run` runs on.
    """

    def __init__(
        self,
        config: WorkerConfig,
        codecs: int,
        on_message: Callable[[PipelineMessage], None],
        on_lost: Callable[[WorkerName], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._codecs = codecs
        self._on_lost = on_lost
        self._on_progress = on_progress
        self._app = AppEnd(codecs, on_message)
        self._edges = list(edges(codecs))
        self._mimi: Path | None = None
        self._slots = 0
        self._prepared = asyncio.Event()
        self._workers = {name: Worker(name, _config_of(config, name, codecs)) for name in self._names()}
        self._all_ready = asyncio.Event()

    def send(self, message: PipelineMessage) -> None:
        """Send a message round the ring. Never waits; what a dead worker should have got is lost."""
        self._app.send(message)

    @property
    def ready(self) -> bool:
        """Whether every worker is warm."""
        return all(worker.ready for worker in self._workers.values())

    @property
    def answering(self) -> bool:
        """Whether every worker is warm and has answered all pings but perhaps the last."""
        return all(worker.ready and worker.pings - worker.pongs <= 1 for worker in self._workers.values())

    @property
    def slots(self) -> int:
        """How many calls the workers serve; 0 until the engine knows."""
        return self._slots

    @property
    def codecs(self) -> int:
        """How many encoders, and as many decoders, share the slots."""
        return self._codecs

    @property
    def process_ids(self) -> dict[WorkerName, int]:
        """The process of each worker that runs."""
        return {name: worker.process.pid for name, worker in self._workers.items() if worker.process}

    @property
    def workers(self) -> list[Worker]:
        """All workers as they are, for who wants to tell of them."""
        return list(self._workers.values())

    @property
    def dropped(self) -> int:
        """Frames of the app's that found no room on the way to an encoder."""
        return self._app.dropped

    async def wait_ready(self) -> None:
        """Return once every worker is warm for the first time."""
        await self._all_ready.wait()

    async def run(self) -> None:
        """Keep the workers running until cancelled, then stop them all. Raises WorkerRefused."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for worker in self._workers.values():
                    tasks.create_task(self._keep(worker), name="-".join(map(str, worker.name)))
                tasks.create_task(self._ping_all())
        except* WorkerRefused as group:
            raise group.exceptions[0] from None
        finally:
            self._app.close()

    def _names(self) -> list[WorkerName]:
        codec = [(stage, index) for index in range(self._codecs) for stage in (Stage.ENCODE, Stage.DECODE)]
        return [(Stage.STEP, 0), *codec]

    async def _keep(self, worker: Worker) -> None:
        while True:
            if worker.config.stage is not Stage.STEP:
                await self._prepared.wait()
            await self._live_once(worker)
            self._see_hopeful(worker)
            pause_s = BACK_OFF_S[min(worker.failures, len(BACK_OFF_S) - 1)]
            worker.failures += 1
            worker.losses += 1
            log.error("worker %s-%d is gone (%s), again in %.1f s", *worker.name, _why(worker), pause_s)
            self._on_lost(worker.name)
            await asyncio.sleep(pause_s)

    def _see_hopeful(self, worker: Worker) -> None:
        """Raise WorkerRefused if a worker that was never ready says that it cannot be, or dies again and again."""
        if worker.was_ready:
            return
        if worker.refusal:
            raise WorkerRefused(worker.refusal)
        if worker.failures >= HOPELESS_STARTS:
            stage, index = worker.name
            raise WorkerRefused(f"worker {stage}-{index} dies at each start; its last words are above")

    async def _live_once(self, worker: Worker) -> None:
        try:
            await self._start(worker)
        except OSError as error:  # no memory for another process, say
            worker.refusal = f"cannot start: {error.strerror}"
            return
        assert worker.process is not None
        try:
            await worker.process.wait()
            self._read_control(worker)  # its last words
        except asyncio.CancelledError:
            await _stop(worker)
            raise
        finally:
            self._forget(worker)

    async def _start(self, worker: Worker) -> None:
        ours, theirs = pair()
        with theirs:
            try:
                worker.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "workers", str(theirs.fileno())),
                    stdin=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=_environment(worker.config.stage),
                )
            except BaseException:
                ours.close()
                raise
        self._open_control(worker, ours)

    def _open_control(self, worker: Worker, ours: socket.socket) -> None:
        worker.control = Link(ours)
        worker.refusal, worker.pings, worker.pongs = None, 0, 0
        asyncio.get_running_loop().add_reader(worker.control, self._read_control, worker)
        with contextlib.suppress(LinkClosed):
            worker.control.send(self._told(worker))

    def _told(self, worker: Worker) -> WorkerConfig:
        """Return what a worker must know; the engine, started again, serves as many slots as before."""
        return replace(worker.config, mimi=self._mimi, slots=self._slots or worker.config.slots)

    def _forget(self, worker: Worker) -> None:
        if worker.control:
            asyncio.get_running_loop().remove_reader(worker.control)
            worker.control.close()
        worker.control, worker.process, worker.ready, worker.vitals = None, None, False, None

    def _read_control(self, worker: Worker) -> None:
        if worker.control is None:
            return
        try:
            messages = worker.control.receive()
        except LinkClosed:
            asyncio.get_running_loop().remove_reader(worker.control)
            return
        for message in messages:
            self._heed(worker, message)

    def _heed(self, worker: Worker, message: object) -> None:
        match message:
            case Progress():
                self._on_progress(message)
            case Prepared(mimi, slots):
                self._mimi, self._slots = mimi, slots
                self._prepared.set()
            case Ready(note):
                self._now_ready(worker, note)
            case Refused(reason):
                worker.refusal = reason
            case Pong(number, vitals):
                worker.pongs, worker.vitals = number, vitals
                worker.failures = 0
            case _:
                raise TypeError(f"no message for the supervisor: {message!r}")

    def _now_ready(self, worker: Worker, note: str) -> None:
        worker.ready = worker.was_ready = True
        worker.note = note
        log.info("worker %s-%d is ready: %s", *worker.name, note)
        for edge in self._edges:
            if worker.name in (edge.source, edge.target):
                connect(edge, self._control_if_ready, self._app)
        if self.ready:
            self._all_ready.set()

    def _control_if_ready(self, name: WorkerName) -> Link | None:
        worker = self._workers[name]
        return worker.control if worker.ready else None

    async def _ping_all(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            for worker in self._workers.values():
                if worker.ready and worker.control and worker.process:
                    self._ping(worker, worker.control, worker.process)

    def _ping(self, worker: Worker, control: Link, process: asyncio.subprocess.Process) -> None:
        if worker.pings - worker.pongs >= UNANSWERED_PINGS:
            log.error("worker %s-%d answers no ping and is killed", *worker.name)
            process.kill()
            return
        worker.pings += 1
        with contextlib.suppress(LinkClosed):
            control.send(Ping(worker.pings))


def _config_of(config: WorkerConfig, name: WorkerName, codecs: int) -> WorkerConfig:
    stage, index = name
    if stage is Stage.STEP:
        return replace(config, stage=stage, index=0, count=1, downstream_count=codecs)
    return replace(config, stage=stage, index=index, count=codecs, downstream_count=1)


def _environment(stage: Stage) -> dict[str, str]:
    """Return a worker's environment, without secrets: threads are ours to start, the codec computes in full float32."""
    threads = {"RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    exact = {} if stage is Stage.STEP else {"MLX_ENABLE_TF32": "0"}
    known = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_FOR_WORKERS)}
    return {**known, **threads, **exact}


def _why(worker: Worker) -> str:
    return worker.refusal or "it died"


async def _stop(worker: Worker) -> None:
    """Close the control link, which ends a worker between two frames; kill one that does not hear it."""
    if worker.control:
        asyncio.get_running_loop().remove_reader(worker.control)
        worker.control.close()
        worker.control = None
    process = worker.process
    if process is None or process.returncode is not None:
        return
    try:
        await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
