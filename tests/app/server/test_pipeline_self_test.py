import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from app.server.pipeline_self_test import ATTEMPTS, EPOCH, FRAMES, PipelineLost, PipelineSelfTest, SelfTestFailed
from tests.processes.pipeline import PATIENCE_S
from workers.messages import Failed, Frame, PipelineMessage, Slot, Span, Stage


class Pipeline:
    """Answers every frame at once, as `answer` says; remembers what it was sent."""

    def __init__(self, answer: Callable[[Frame], PipelineMessage | None], within_s: float = PATIENCE_S) -> None:
        self.sent: list[PipelineMessage] = []
        self.self_test = PipelineSelfTest(self._send, within_s)
        self._answer = answer

    def _send(self, message: PipelineMessage) -> None:
        self.sent.append(message)
        if isinstance(message, Frame) and (answer := self._answer(message)):
            self.self_test.handle_message(answer)


def answer(frame: Frame) -> Frame:
    """Answer as workers that take 50 ms a slot, and longer for the first frame."""
    end_s = 5.0 + 0.05 * (frame.slot + 1) + (9.0 if frame.seq == 0 else 0.0)
    return Frame(frame.slot, frame.epoch, frame.seq, None, spans=(Span(Stage.ENCODE, 5.0, end_s),))


async def test_every_slot_is_tested_and_the_longest_time_counts_without_first_frames() -> None:
    pipeline = Pipeline(answer)
    assert await pipeline.self_test.run(2) == pytest.approx(0.1)
    kinds = [(type(message).__name__, message.slot) for message in pipeline.sent]
    assert kinds == [(kind, slot) for slot in range(2) for kind in ("Open", *["Frame"] * FRAMES, "Close")]
    assert {message.epoch for message in pipeline.sent} == {EPOCH}
    assert not any(np.any(message.pcm) for message in pipeline.sent if isinstance(message, Frame))


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (lambda frame: Failed(frame.slot, frame.epoch, Stage.STEP, "not a number"), "step: not a number"),
        (lambda frame: None, r"did not come back from the workers within 0\.2 s"),
    ],
)
async def test_a_frame_that_fails_or_does_not_come_back_ends_the_test(
    answers: Callable[[Frame], PipelineMessage | None], error: str
) -> None:
    with pytest.raises(SelfTestFailed, match=error):
        await Pipeline(answers, within_s=0.2).self_test.run(1)


async def test_a_pipeline_that_was_lost_before_does_not_count() -> None:
    pipeline = Pipeline(answer)
    pipeline.self_test.on_pipeline_lost("step: exit status 1")
    pipeline.self_test.handle_message(Frame(Slot(0), EPOCH, 0, None))
    assert await pipeline.self_test.run(1) == pytest.approx(0.05)


@pytest.mark.parametrize("losses", [ATTEMPTS - 1, ATTEMPTS])
async def test_a_pipeline_that_is_lost_during_its_test_is_tested_again_but_not_for_ever(losses: int) -> None:
    starts = 0

    async def wait_ready() -> None:
        nonlocal starts
        starts += 1
        if starts <= losses:
            asyncio.get_running_loop().call_soon(pipeline.self_test.on_pipeline_lost, "killed by SIGKILL")

    pipeline = Pipeline(lambda frame: answer(frame) if starts > losses else None)
    testing = pipeline.self_test.run_until_passed(wait_ready, lambda: 1)
    if losses < ATTEMPTS:
        assert await testing == pytest.approx(0.05)
    else:
        with pytest.raises(PipelineLost, match="killed by SIGKILL"):
            await testing
