import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from app.server.pipeline_self_test import ATTEMPTS, EPOCH, FRAMES, PipelineLost, PipelineSelfTest, SelfTestFailed
from workers.messages import Close, Failed, Frame, Open, PipelineMessage, Slot, Span, Stage


class Pipeline:
    """Answers every frame at once, as `answer` says; remembers what it was sent."""

    def __init__(self, answer: Callable[[Frame], PipelineMessage]) -> None:
        self.sent: list[PipelineMessage] = []
        self.self_test = PipelineSelfTest(self._send)
        self._answer = answer

    def _send(self, message: PipelineMessage) -> None:
        self.sent.append(message)
        self.self_test.handle_message(self._answer(message) if isinstance(message, Frame) else message)


def after(took_s: float) -> Callable[[Frame], Frame]:
    """Answer a frame as workers that take so long, and longer for the first frame of a slot."""

    def answer(frame: Frame) -> Frame:
        end_s = 5.0 + took_s * (frame.slot + 1) + (9.0 if frame.seq == 0 else 0.0)
        return Frame(frame.slot, frame.epoch, frame.seq, None, spans=(Span(Stage.ENCODE, 5.0, end_s),))

    return answer


async def test_every_slot_is_opened_tried_and_closed() -> None:
    pipeline = Pipeline(after(0.05))
    await pipeline.self_test.run(2)
    kinds = [(type(message).__name__, message.slot) for message in pipeline.sent]
    one_slot = ["Open", *["Frame"] * FRAMES, "Close"]
    assert kinds == [(kind, slot) for slot in range(2) for kind in one_slot]
    assert {message.epoch for message in pipeline.sent} == {EPOCH}
    assert not any(np.any(message.pcm) for message in pipeline.sent if isinstance(message, Frame))
    assert isinstance(pipeline.sent[0], Open)
    assert isinstance(pipeline.sent[-1], Close)


async def test_the_longest_time_counts_without_the_first_frame_of_each_slot() -> None:
    assert await Pipeline(after(0.05)).self_test.run(3) == pytest.approx(0.15)


async def test_a_worker_that_cannot_take_a_frame_is_told() -> None:
    pipeline = Pipeline(lambda frame: Failed(frame.slot, frame.epoch, Stage.STEP, "not a number"))
    with pytest.raises(SelfTestFailed, match="step: not a number"):
        await pipeline.self_test.run(1)


async def test_a_pipeline_that_is_lost_meanwhile_is_told_and_not_waited_for() -> None:
    self_test = PipelineSelfTest(lambda _: None)
    running = asyncio.create_task(self_test.run(1))
    await asyncio.sleep(0)
    self_test.on_pipeline_lost("decode: killed by SIGKILL")
    with pytest.raises(PipelineLost, match="decode: killed by SIGKILL"):
        await running


async def test_a_pipeline_that_was_lost_before_does_not_count() -> None:
    pipeline = Pipeline(after(0.05))
    pipeline.self_test.on_pipeline_lost("step: exit status 1")
    pipeline.self_test.handle_message(Frame(Slot(0), EPOCH, 0, None))
    assert await pipeline.self_test.run(1) == pytest.approx(0.05)


async def test_a_frame_that_does_not_come_back_ends_the_test_with_a_line() -> None:
    self_test = PipelineSelfTest(lambda _: None, answer_within_s=0.01)
    with pytest.raises(SelfTestFailed, match=r"did not come back from the workers within 0\.01 s"):
        await self_test.run(1)


async def test_a_pipeline_that_is_lost_during_its_test_is_tested_again_but_not_for_ever() -> None:
    async def pass_after(losses: int) -> float:
        left = losses

        async def wait_ready() -> None:
            nonlocal left
            left -= 1

        def slots() -> int:
            if left >= 0:
                asyncio.get_running_loop().call_soon(pipeline.self_test.on_pipeline_lost, "killed by SIGKILL")
            return 1

        def answer(frame: Frame) -> PipelineMessage:
            return after(0.05)(frame) if left < 0 else Open(frame.slot, frame.epoch)

        pipeline = Pipeline(answer)
        return await pipeline.self_test.run_until_passed(wait_ready, slots)

    assert await pass_after(ATTEMPTS - 1) == pytest.approx(0.05)
    with pytest.raises(PipelineLost):
        await pass_after(ATTEMPTS)
