"""One life of the pipeline: the engine's process, an encoder's and a decoder's, and the links between them.

Every process inherits its control link and its links when it is started, so no descriptor ever travels between
processes (macOS may close one in transit). When encoder or decoder is lost both are started again, and the engine lives
on: it has inherited links to `SPARES` more of them, whose other ends are kept here. All links of the former two are
closed with what is in them, so that no message of before the loss arrives after it.

A process beside the pipeline is one more `WorkerProcess` with a task of its own in `Supervisor.run` that starts it
again, such as the transcriber of `workers.transcription`: nothing here waits for it or ends when it ends.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from workers.control_messages import FromWorker, Ping, Relink
from workers.link import pair
from workers.liveness import Loss
from workers.messages import Failed, Message, PromptMessage, Stage
from workers.process import LoopLink, WorkerProcess

log = logging.getLogger(__name__)

STOP_WITHIN_S = 3.0
KILLED_WITHIN_S = 10.0
"""A process that hangs in a driver outlives SIGKILL; the next pipeline is started all the same."""
SPARES = 8
"""So often encoder and decoder are started again before the engine is, too."""
CODEC = (Stage.ENCODE, Stage.DECODE)
OnMessage = Callable[[Message], None]


def ending_calls(on_message: OnMessage) -> OnMessage:
    """Return a handler whose exceptions end the call of their message: those that came with it belong to others."""

    def handle(message: Message) -> None:
        try:
            on_message(message)
        except Exception as error:
            if isinstance(message, PromptMessage):
                log.exception("%s cannot be handled", type(message).__name__)
                return
            log.exception("slot %d: %s cannot be handled, its call ends", message.slot, type(message).__name__)
            with contextlib.suppress(Exception):  # logged above
                on_message(Failed(message.slot, message.epoch, Stage.DECODE, repr(error), internal=True))

    return handle


class Pipeline:
    """Encoder, engine and decoder. `on_message` gets what comes out; `on_control` the processes' control messages."""

    def __init__(self, on_message: OnMessage, on_control: Callable[[Stage, FromWorker], None]) -> None:
        self._on_message, self._on_control = ending_calls(on_message), on_control
        self.workers = {stage: WorkerProcess(stage, partial(on_control, stage)) for stage in Stage}
        self._engine_links: deque[tuple[socket.socket, socket.socket]] = deque()
        """The encoder's and the decoder's ends of the links to the engine that have not been used."""
        self._to_encoder: LoopLink | None = None
        self._from_decoder: LoopLink | None = None
        self._dropped = 0
        """On the way to former encoders."""

    async def start(self) -> None:
        """Start the processes with their links, after `end_codec` those of the codec.

        Raises OSError; `kill` or `stop` must be called in any case.
        """
        engine = self.workers[Stage.STEP]
        if engine.process_id:
            engine.send(Relink())
        else:
            await self._start_engine()
        await self._start_codec()

    async def _start_engine(self) -> None:
        with contextlib.ExitStack() as stack:
            ends: list[socket.socket] = []
            for _ in range(1 + SPARES):
                (from_encoder, upstream), (downstream, to_decoder) = pair(), pair()
                self._engine_links.append((from_encoder, to_decoder))
                ends += stack.enter_context(upstream), stack.enter_context(downstream)
            await self.workers[Stage.STEP].start(ends)

    async def _start_codec(self) -> None:
        (out, to_encoder), (from_decoder, back) = pair(), pair()
        self._to_encoder, self._from_decoder = (LoopLink(end, self._on_message) for end in (out, back))
        from_encoder, to_decoder = self._engine_links.popleft()
        with to_encoder, from_encoder, to_decoder, from_decoder:
            await self.workers[Stage.ENCODE].start([to_encoder, from_encoder])
            await self.workers[Stage.DECODE].start([to_decoder, from_decoder])

    @property
    def ready(self) -> bool:
        return all(worker.ready for worker in self.workers.values())

    @property
    def engine_can_stay(self) -> bool:
        """Whether the engine runs and has links to another encoder and decoder."""
        engine = self.workers[Stage.STEP]
        return engine.ready and bool(self._engine_links) and not (engine.exit and engine.exit.done())

    @property
    def dropped(self) -> int:
        return self._dropped + (self._to_encoder.dropped if self._to_encoder else 0)

    def send(self, message: Message) -> None:
        if self._to_encoder:
            self._to_encoder.send(message)

    def ping(self) -> None:
        for worker in self.workers.values():
            if worker.ready:
                worker.send(Ping())

    async def wait_loss(self, timeout_s: float) -> Loss | None:
        """Return how a process has ended, or None after `timeout_s`."""
        exits = {worker.exit: stage for stage, worker in self.workers.items() if worker.exit}
        done, _ = await asyncio.wait(exits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for stage in map(exits.__getitem__, done):
            worker = self.workers[stage]
            worker.read_control()  # what it sent before it ended
            return Loss(stage, worker.refusal or worker.ending, refused=bool(worker.refusal))
        return None

    async def stop(self) -> None:
        """Have the processes end between two units of work; kill those that do not in time."""
        self._close(Stage)
        await self._wait(Stage, STOP_WITHIN_S)
        await self.kill()

    async def kill(self) -> None:
        while self._engine_links:
            for end in self._engine_links.popleft():
                end.close()
        await self._kill(Stage)

    async def end_codec(self) -> None:
        """Kill encoder and decoder; `start` starts them again."""
        await self._kill(CODEC)
        self._dropped, self._to_encoder, self._from_decoder = self.dropped, None, None
        self.workers |= {stage: WorkerProcess(stage, partial(self._on_control, stage)) for stage in CODEC}

    async def _kill(self, stages: Iterable[Stage]) -> None:
        self._close(stages)
        for stage in stages:
            self.workers[stage].kill()
        await self._wait(stages, KILLED_WITHIN_S)
        for stage in stages:
            if (exited := self.workers[stage].exit) and not exited.done():
                log.error("worker %s: process %s does not end", stage, self.workers[stage].process_id)

    async def _wait(self, stages: Iterable[Stage], timeout_s: float) -> None:
        if exits := [exited for stage in stages if (exited := self.workers[stage].exit)]:
            await asyncio.wait(exits, timeout=timeout_s)

    def _close(self, stages: Iterable[Stage]) -> None:
        for stage in stages:
            self.workers[stage].close()
        for link in (self._to_encoder, self._from_decoder):
            if link:
                link.close()
