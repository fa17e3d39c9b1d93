"""A supervised pipeline of real worker processes, with what comes of it in queues."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import numpy as np
import psutil

from tests.workers.config import LOOPBACK
from workers.control_messages import WorkerConfig
from workers.liveness import Limits
from workers.messages import (
    FRAME_SAMPLES,
    Close,
    Epoch,
    Frame,
    Open,
    PipelineMessage,
    PromptMessage,
    Slot,
    TranscriptMessage,
)
from workers.supervisor import Supervisor

PATIENCE_S = 30.0
"""A guard against a test that would wait for ever; nothing is measured by it."""
START_S = 300.0
"""The same for a start, which may make a synthetic checkpoint."""
CALM = Limits(busy_s=PATIENCE_S, idle_s=PATIENCE_S, beside_s=PATIENCE_S)
"""A worker that gets no processor for a while does not hang."""


class SupervisedPipeline:
    """A supervisor with everything it reports."""

    def __init__(self, config: WorkerConfig = LOOPBACK, limits: Limits = CALM) -> None:
        self.arrived: asyncio.Queue[PipelineMessage] = asyncio.Queue()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.prompts: asyncio.Queue[PromptMessage] = asyncio.Queue()
        self.heard: asyncio.Queue[TranscriptMessage] = asyncio.Queue()
        report, lose = self.arrived.put_nowait, self.lost.put_nowait
        answers = self.prompts.put_nowait, self.heard.put_nowait
        self.supervisor = Supervisor(config, report, lose, lambda _: None, limits, *answers)

    async def next_message(self) -> PipelineMessage:
        async with asyncio.timeout(PATIENCE_S):
            return await self.arrived.get()

    async def next_prompt(self) -> PromptMessage:
        async with asyncio.timeout(PATIENCE_S):
            return await self.prompts.get()

    async def next_heard(self) -> TranscriptMessage:
        async with asyncio.timeout(PATIENCE_S):
            return await self.heard.get()

    async def next_lost(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await self.lost.get()

    async def next_frame(self) -> Frame:
        while not isinstance(message := await self.next_message(), Frame):
            pass
        return message

    async def until_ready(self) -> None:
        """Wait until every worker is ready, for the first time or again, and has answered: only then a loss is the
        first one, after which there is no pause.
        """
        async with asyncio.timeout(PATIENCE_S):
            await self.supervisor.wait_ready()
            while not all(worker.vitals for worker in self.supervisor.workers):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)

    async def pass_frames(self, slot: int, epoch: int, frames: int = 3) -> list[tuple[int, float]]:
        """Open a slot, pass frames one by one, close it; return number and first sample of each."""
        self.supervisor.send(Open(Slot(slot), Epoch(epoch)))
        came = []
        for seq in range(frames):
            self.supervisor.send(frame(slot, epoch, seq))
            back = await self.next_frame()
            assert back.pcm is not None
            assert (back.slot, back.epoch) == (slot, epoch)
            came.append((back.seq, float(back.pcm[0])))
        closed = Close(Slot(slot), Epoch(epoch))
        self.supervisor.send(closed)
        while await self.next_message() != closed:
            pass
        return came


class _ToQueue(logging.Handler):
    def __init__(self, lines: asyncio.Queue[str]) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        call_sid = getattr(record, "call_sid", "")  # as people read it, see `workers.logging`
        self._lines.put_nowait(f"call_sid={call_sid} {record.getMessage()}" if call_sid else record.getMessage())


@contextlib.asynccontextmanager
async def log_lines(name: str) -> AsyncIterator[asyncio.Queue[str]]:
    """What a logger says while the block lasts, as something to wait for."""
    logger, lines = logging.getLogger(name), asyncio.Queue[str]()
    before, handler = logger.level, _ToQueue(lines)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def frame(slot: int, epoch: int, seq: int) -> Frame:
    return Frame(Slot(slot), Epoch(epoch), seq, np.full(FRAME_SAMPLES, seq / 10, np.float32))


async def _ready(supervisor: Supervisor) -> None:
    await supervisor.wait_ready()
    if supervisor.transcription:
        await supervisor.transcription.wait_ready()


@contextlib.asynccontextmanager
async def supervising(supervisor: Supervisor, ready: bool = True) -> AsyncIterator[None]:
    """Run a supervisor until the block ends; its workers are `ready` when the block begins. Raises WorkerRefused."""
    running = asyncio.create_task(supervisor.run())
    waiting = asyncio.create_task(_ready(supervisor))
    try:
        if ready:
            done, _ = await asyncio.wait({running, waiting}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            assert waiting in done
        yield
    finally:
        for task in (running, waiting):
            task.cancel()
        await asyncio.wait({running, waiting})


@contextlib.asynccontextmanager
async def running(
    config: WorkerConfig = LOOPBACK, limits: Limits = CALM, ready: bool = True
) -> AsyncIterator[SupervisedPipeline]:
    """Run a pipeline until the block ends, as `supervising` does."""
    pipeline = SupervisedPipeline(config, limits)
    async with supervising(pipeline.supervisor, ready):
        yield pipeline


async def all_gone(process_ids: list[int]) -> None:
    """Return once none of these processes is left."""
    processes = [psutil.Process(pid) for pid in process_ids if psutil.pid_exists(pid)]
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, PATIENCE_S)
    assert alive == []
