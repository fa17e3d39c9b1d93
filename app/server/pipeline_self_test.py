"""The self-test before the first call: silent frames through the pipeline, whose time is measured."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median

import numpy as np

from workers.messages import FRAME_SAMPLES, Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot

FRAMES = 6
TESTED_SLOTS = 4
ATTEMPTS = 3
EPOCH = Epoch(0)
"""Calls have later ones."""
ANSWER_WITHIN_S = 60.0
"""How long one frame may take: a first step may have to be compiled."""


class SelfTestFailed(Exception):
    """A stage cannot process a silent frame, or did not answer."""


class PipelineLost(SelfTestFailed):
    """The pipeline was lost meanwhile; it is started again and can be tested again."""


class PipelineSelfTest:
    """Sends frames by `send`; must be given every message that comes out of the pipeline meanwhile."""

    def __init__(self, send: Callable[[PipelineMessage], None], answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self._send = send
        self._answer_within_s = answer_within_s
        self._arrived: asyncio.Queue[Frame | Failed | PipelineLost] = asyncio.Queue()

    def handle_message(self, message: PipelineMessage) -> None:
        if isinstance(message, Frame | Failed):
            self._arrived.put_nowait(message)

    def on_pipeline_lost(self, reason: str) -> None:
        self._arrived.put_nowait(PipelineLost(f"self-test: {reason}"))

    async def run_until_passed(self, wait_ready: Callable[[], Awaitable[object]], slots: Callable[[], int]) -> float:
        for _ in range(ATTEMPTS - 1):
            await wait_ready()
            with contextlib.suppress(PipelineLost):
                return await self.run(min(slots(), TESTED_SLOTS))
        await wait_ready()
        return await self.run(min(slots(), TESTED_SLOTS))

    async def run(self, slots: int) -> float:
        """Return the median time in seconds that a frame takes through the pipeline, of the slowest slot.

        Raises SelfTestFailed.
        """
        while not self._arrived.empty():  # of an earlier pipeline
            self._arrived.get_nowait()
        return max([await self._test_slot(Slot(slot)) for slot in range(slots)])

    async def _test_slot(self, slot: Slot) -> float:
        self._send(Open(slot, EPOCH))
        silent = Frame(slot, EPOCH, 0, np.zeros(FRAME_SAMPLES, np.float32))
        took_s = [await self._test_frame(replace(silent, seq=seq)) for seq in range(FRAMES)]
        self._send(Close(slot, EPOCH))
        return median(took_s[1:])

    async def _test_frame(self, frame: Frame) -> float:
        self._send(frame)
        try:
            async with asyncio.timeout(self._answer_within_s):
                message = await self._arrived.get()
        except TimeoutError as error:
            raise SelfTestFailed(
                f"self-test: a silent frame did not come back from the workers within {self._answer_within_s:g} s; "
                "their last log lines are above"
            ) from error
        if isinstance(message, PipelineLost):
            raise message
        if isinstance(message, Failed):
            raise SelfTestFailed(f"self-test: {message.stage}: {message.reason}")
        return message.spans[-1].ended_s - message.spans[0].started_s
