"""A few silent frames through every slot before the first call: proves the ring, and measures what it takes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np

from workers.messages import FRAME_SAMPLES, Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot
from workers.pipeline import WorkerName

FRAMES = 6
EPOCH = Epoch(0)
"""Before any call's."""


class SelfTestFailed(Exception):
    """A worker said that it cannot process a silent frame, or died of it."""


class PipelineSelfTest:
    """Call `run` once the workers are warm; give it every message of theirs meanwhile."""

    def __init__(self, send: Callable[[PipelineMessage], None]) -> None:
        self._send = send
        self._arrived: asyncio.Queue[Frame | Failed] = asyncio.Queue()

    def take_message(self, message: PipelineMessage) -> None:
        """Take what came round the ring."""
        if isinstance(message, Frame | Failed):
            self._arrived.put_nowait(message)

    def lose_worker(self, name: WorkerName) -> None:
        """Take note that a worker has died: what it should have sent will not come."""
        self._arrived.put_nowait(Failed(Slot(0), EPOCH, name[0], "the worker died"))

    async def run(self, slots: int) -> float:
        """Return the median time in seconds that a frame takes through the workers, of the slowest slot.

        Raises SelfTestFailed.
        """
        while not self._arrived.empty():  # of workers that died before they were warm
            self._arrived.get_nowait()
        return max([await self._rehearse(Slot(slot)) for slot in range(slots)])

    async def _rehearse(self, slot: Slot) -> float:
        self._send(Open(slot, EPOCH))
        silent = Frame(slot, EPOCH, 0, np.zeros(FRAME_SAMPLES, np.float32))
        took_s = [await self._once(replace(silent, seq=seq)) for seq in range(FRAMES)]
        self._send(Close(slot, EPOCH))
        return median(took_s[1:])

    async def _once(self, frame: Frame) -> float:
        self._send(frame)
        message = await self._arrived.get()
        if isinstance(message, Failed):
            raise SelfTestFailed(f"{message.stage}: {message.reason}")
        return message.spans[-1].ended_s - message.spans[0].started_s
