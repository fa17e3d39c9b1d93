import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from app.service.self_test import EPOCH, FRAMES, PipelineSelfTest, SelfTestFailed
from workers.messages import Close, Failed, Frame, Open, PipelineMessage, Slot, Span, Stage


class Ring:
    """Answers every frame at once, as `answer` says; remembers what it was sent."""

    def __init__(self, answer: Callable[[Frame], PipelineMessage]) -> None:
        self.sent: list[PipelineMessage] = []
        self.rehearsal = PipelineSelfTest(self._send)
        self._answer = answer

    def _send(self, message: PipelineMessage) -> None:
        self.sent.append(message)
        self.rehearsal.take_message(self._answer(message) if isinstance(message, Frame) else message)


def after(took_s: float) -> Callable[[Frame], Frame]:
    """Answer a frame as workers that take so long, and longer for the first frame of a slot."""

    def answer(frame: Frame) -> Frame:
        end_s = 5.0 + took_s * (frame.slot + 1) + (9.0 if frame.seq == 0 else 0.0)
        return Frame(frame.slot, frame.epoch, frame.seq, None, spans=(Span(Stage.ENCODE, 5.0, end_s),))

    return answer


async def test_every_slot_is_opened_tried_and_closed() -> None:
    ring = Ring(after(0.05))
    await ring.rehearsal.run(2)
    kinds = [(type(message).__name__, message.slot) for message in ring.sent]
    one_slot = ["Open", *["Frame"] * FRAMES, "Close"]
    assert kinds == [(kind, slot) for slot in range(2) for kind in one_slot]
    assert {message.epoch for message in ring.sent} == {EPOCH}
    assert not any(np.any(message.pcm) for message in ring.sent if isinstance(message, Frame))
    assert isinstance(ring.sent[0], Open)
    assert isinstance(ring.sent[-1], Close)


async def test_the_longest_time_counts_without_the_first_frame_of_each_slot() -> None:
    assert await Ring(after(0.05)).rehearsal.run(3) == pytest.approx(0.15)


async def test_a_worker_that_cannot_take_a_frame_is_told() -> None:
    ring = Ring(lambda frame: Failed(frame.slot, frame.epoch, Stage.STEP, "not a number"))
    with pytest.raises(SelfTestFailed, match="step: not a number"):
        await ring.rehearsal.run(1)


async def test_a_worker_that_dies_of_it_is_told_and_not_waited_for() -> None:
    rehearsal = PipelineSelfTest(lambda _: None)
    running = asyncio.create_task(rehearsal.run(1))
    await asyncio.sleep(0)
    rehearsal.lose_worker((Stage.DECODE, 0))
    with pytest.raises(SelfTestFailed, match="decode: the worker died"):
        await running


async def test_a_worker_that_died_before_and_is_back_does_not_count() -> None:
    ring = Ring(after(0.05))
    ring.rehearsal.lose_worker((Stage.STEP, 0))
    ring.rehearsal.take_message(Frame(Slot(0), EPOCH, 0, None))
    assert await ring.rehearsal.run(1) == pytest.approx(0.05)
