"""One life of the pipeline: three processes and the links between them, started and ended together.

Every process inherits its control link and both its links when it is started, so no descriptor ever travels between
processes (macOS may close one in transit). A link lives as long as the pipeline.

A process beside the pipeline is one more `WorkerProcess` with a task of its own in `Supervisor.run` that starts it
again, such as the transcriber of `workers.transcription`: nothing here waits for it or ends when it ends.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from workers.link import pair
from workers.messages import ControlMessage, Failed, Message, PromptMessage, Stage
from workers.process import LoopLink, WorkerProcess

log = logging.getLogger(__name__)

STOP_WITHIN_S = 3.0
KILLED_WITHIN_S = 10.0
"""A process that hangs in a driver outlives SIGKILL; the next pipeline is started all the same."""
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

    def __init__(
        self, on_message: OnMessage, on_control: Callable[[WorkerProcess[Stage], ControlMessage], None]
    ) -> None:
        self.workers = {stage: WorkerProcess(stage, on_control) for stage in Stage}
        self._on_message = ending_calls(on_message)
        self._to_encoder: LoopLink | None = None
        self._from_decoder: LoopLink | None = None

    async def start(self) -> None:
        """Start the processes with their links. Raises OSError; `kill` or `stop` must be called in any case."""
        out, *ends, back = [end for _ in range(len(Stage) + 1) for end in pair()]
        self._to_encoder = LoopLink(out, self._on_message)
        self._from_decoder = LoopLink(back, self._on_message)
        with contextlib.ExitStack() as stack:
            for end in ends:
                stack.enter_context(end)
            for index, worker in enumerate(self.workers.values()):
                await worker.start(ends[2 * index : 2 * index + 2])

    @property
    def ready(self) -> bool:
        return all(worker.ready for worker in self.workers.values())

    @property
    def dropped(self) -> int:
        return self._to_encoder.dropped if self._to_encoder else 0

    def send(self, message: Message) -> None:
        if self._to_encoder:
            self._to_encoder.send(message)

    async def wait_any(self, timeout_s: float) -> WorkerProcess[Stage] | None:
        """Return a worker whose process has ended, or None after `timeout_s`."""
        exits = {worker.exit: worker for worker in self.workers.values() if worker.exit}
        done, _ = await asyncio.wait(exits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return next((exits[task] for task in done), None)

    async def stop(self) -> None:
        """Have the processes end between two units of work; kill those that do not in time."""
        self._close()
        await self._wait_all(STOP_WITHIN_S)
        await self.kill()

    async def kill(self) -> None:
        self._close()
        for worker in self.workers.values():
            worker.kill()
        await self._wait_all(KILLED_WITHIN_S)
        for worker in self.workers.values():
            if worker.exit and not worker.exit.done():
                log.error("worker %s: process %s does not end", worker.stage, worker.process_id)

    async def _wait_all(self, timeout_s: float) -> None:
        if exits := [worker.exit for worker in self.workers.values() if worker.exit]:
            await asyncio.wait(exits, timeout=timeout_s)

    def _close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        for link in (self._to_encoder, self._from_decoder):
            if link:
                link.close()
