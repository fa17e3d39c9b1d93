from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.control_messages import Relink
from workers.engine.delay_pattern import StepResult
from workers.engine.loopback import LoopbackEngine
from workers.engine.stage import PATIENCE_S, EngineStage
from workers.engine.steering import Force
from workers.messages import (
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PipelineMessage,
    SamplingChanges,
    Slot,
    Span,
    Stage,
)

A, B = Slot(0), Slot(1)
REFUSED = 8_000


@dataclass
class Parrot(LoopbackEngine):
    """Answers the n-th frame of a call with text token n and the frame itself, the first one without sound.

    The log of a step is its frame, twice. A step takes `step_s`.
    """

    now: float = 100.0
    step_s: float = 0.0
    steps: dict[Slot, int] = field(default_factory=dict)
    steps_run: list[dict[Slot, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    keep_alive_s: float | None = None
    cold: list[str] = field(default_factory=list)

    def warm_next(self) -> None:
        self.done.append(f"warm {self.cold.pop()}")

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None:
        assert slot not in self.steps, "a slot is opened twice"
        self.done.append(f"open {slot}")
        self.steps[slot] = 0

    def close(self, slot: Slot) -> None:
        self.done.append(f"close {slot}")
        del self.steps[slot]

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force]) -> dict[Slot, StepResult]:
        self.now += self.step_s
        self.steps_run.append({slot: int(frame[0]) for slot, frame in codes.items()})
        return {slot: self._say(slot, frame) for slot, frame in codes.items()}

    def keep_alive(self) -> None:
        self.done.append("keep alive")

    def _say(self, slot: Slot, frame: CodeArray) -> StepResult:
        number = self.steps[slot]
        self.steps[slot] += 1
        if frame[0] == REFUSED:
            return StepResult(0, None, fault="no codec made this")
        return StepResult(number, frame if number else None, np.tile(frame, 2))


class NumberedTokens:
    """The text of the n-th token that a call decodes is "n.token"."""

    def decoder(self) -> Callable[[int], str]:
        numbers = count()
        return lambda token: f"{next(numbers)}.{token}"

    def words(self, text: str) -> list[list[int]]:
        raise NotImplementedError


def stage_of(engine: Parrot) -> EngineStage:
    """A stage whose clock is that of the engine."""
    return EngineStage(engine, NumberedTokens(), lambda: engine.now)


def opened(slot: Slot = A, epoch: int = 1, greeting: tuple[int, ...] = ()) -> Open:
    silence = np.repeat(np.array(greeting, np.int32)[:, None], 8, axis=1)
    return Open(slot, Epoch(epoch), len(greeting), silence)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def heard(value: int, slot: Slot = A, epoch: int = 1, dropped: int = 0) -> Codes:
    return Codes(slot, Epoch(epoch), value, np.full(8, value, np.int32), dropped=dropped)


def receive(stage: EngineStage, *messages: Message) -> list[Message]:
    return [out for message in messages for out in stage.receive(message)]


def work(stage: EngineStage) -> list[Codes]:
    done: list[Message] = []
    while stage.due_s() is not None:
        done += stage.work()
    return [message for message in done if isinstance(message, Codes)]


def test_one_step_steps_every_call_that_has_a_frame_waiting() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A), opened(B), heard(10, A), heard(20, B))
    assert len(stage.work()) == 2
    assert stage.due_s() is None
    receive(stage, heard(21, B))
    work(stage)
    assert engine.steps_run == [{A: 10, B: 20}, {B: 21}]


def test_what_goes_on_are_moshis_codes_its_words_the_tokens_and_the_number_of_the_frame_heard() -> None:
    stage = stage_of(Parrot())
    encoded = Span(Stage.ENCODE, 1.0, 2.0)
    receive(stage, opened())
    said = []
    for frame in (heard(5), heard(6), heard(7), replace(heard(8, dropped=3), spans=(encoded,))):
        receive(stage, frame)
        said += work(stage)
    assert [(m.seq, m.text, m.dropped) for m in said] == [(5, "0.0", 0), (6, "1.1", 0), (7, "2.2", 0), (8, "3.3", 3)]
    assert [None if m.codes is None else m.codes[0] for m in said] == [None, 6, 7, 8]
    assert [np.frombuffer(m.tokens, "<i2").tolist() for m in said] == [[value] * 16 for value in (5, 6, 7, 8)]
    assert said[-1].spans[0] == encoded
    assert [span.stage for span in said[-1].spans] == [Stage.ENCODE, Stage.STEP]


def test_a_greeting_is_one_step_for_each_frame_of_silence_before_the_caller_is_heard() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    (passed,) = receive(stage, opened(greeting=(1, 2, 3)))
    assert isinstance(passed, Open)
    assert passed.silence is None, "the decoder has no use for it"
    receive(stage, heard(100))
    assert [message.seq for message in work(stage)] == [0, 1, 2, 100]
    assert engine.steps_run == [{A: 1}, {A: 2}, {A: 3}, {A: 100}]


def test_the_greeting_of_one_call_delays_no_other() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A, greeting=(1, 2, 3)), opened(B))
    assert stage.due_s() == 0.0
    stage.work()
    receive(stage, heard(20, B))
    assert stage.due_s() == 0.0
    stage.work()
    receive(stage, heard(21, B))
    work(stage)
    assert engine.steps_run == [{A: 1}, {A: 2, B: 20}, {A: 3, B: 21}]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15))
def test_of_a_call_at_most_one_frame_waits_and_no_other_is_lost_uncounted(bursts: list[tuple[int, int]]) -> None:
    engine, sent = Parrot(), 0
    stage = stage_of(engine)
    receive(stage, opened())
    said: list[Codes] = []
    for frames, dropped_before in bursts:
        for _ in range(frames):
            receive(stage, heard(sent, dropped=dropped_before))
            sent += 1 + dropped_before
        said += work(stage)
    assert sum(1 + message.dropped for message in said) == sent
    assert len(engine.steps_run) == sum(frames > 0 for frames, _ in bursts)


def test_frames_of_an_earlier_call_or_of_no_call_are_not_stepped() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, heard(1), opened(epoch=2), heard(2, epoch=1), heard(3, epoch=3))
    assert stage.due_s() is None
    receive(stage, heard(5, epoch=2), closed(epoch=2), heard(4, epoch=2))
    assert stage.due_s() is None
    assert engine.steps_run == []
    assert engine.done == ["open 0", "close 0"]


def test_a_call_without_a_close_is_closed_when_the_next_one_opens() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(epoch=1, greeting=(1, 2)), opened(epoch=2), closed(epoch=1), heard(9, epoch=2))
    (said,) = work(stage)
    assert engine.done == ["open 0", "close 0", "open 0"]
    assert (said.epoch, said.seq, said.text) == (2, 9, "0.0"), "with a text decoder of its own"


def test_with_another_codec_no_call_goes_on_until_it_is_opened_or_resumed() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A, greeting=(1, 2)), opened(B), heard(3, B))
    assert stage.receive(Relink()) == []
    receive(stage, heard(4, A), heard(5, B))
    assert stage.due_s() is None
    receive(stage, opened(A, epoch=2), heard(6, A, epoch=2))
    assert [message.seq for message in work(stage)] == [6]


def test_a_call_that_cannot_go_on_fails_and_the_others_go_on() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A), opened(B), heard(REFUSED, A), heard(20, B))
    failed, said = stage.work()
    assert isinstance(said, Codes)
    assert failed == Failed(A, Epoch(1), Stage.STEP, "no codec made this")
    assert said.slot == B
    assert list(engine.steps) == [B]
    receive(stage, heard(1, A), heard(21, B), closed(A))
    assert [message.slot for message in work(stage)] == [B]
    receive(stage, opened(A, epoch=2), heard(3, A, epoch=2))
    assert [message.slot for message in work(stage)] == [A]


def test_a_call_that_failed_in_an_earlier_stage_is_closed_and_passed_on() -> None:
    engine = Parrot()
    failed = Failed(A, Epoch(1), Stage.ENCODE, "why")
    assert receive(stage_of(engine), opened(), failed)[-1] == failed
    assert engine.done == ["open 0", "close 0"]


def test_pcm_is_not_for_the_engine() -> None:
    with pytest.raises(TypeError):
        stage_of(Parrot()).receive(Frame(A, Epoch(1), 0, None))


SLOTS, EPOCHS = st.sampled_from([A, B]), st.integers(1, 3)
STORIES = st.lists(
    st.one_of(
        st.builds(opened, SLOTS, EPOCHS, st.sampled_from([(), (1, 2)])),
        st.builds(closed, SLOTS, EPOCHS),
        st.builds(heard, st.sampled_from([1, 2, REFUSED]), SLOTS, EPOCHS),
        st.just("work"),
    ),
    max_size=40,
)


@given(STORIES)
def test_whatever_happens_the_engine_is_opened_and_closed_by_turns(story: list[PipelineMessage | str]) -> None:
    engine = Parrot()
    stage = stage_of(engine)
    for event in story:
        if not isinstance(event, str):
            stage.receive(event)
        elif stage.due_s() is not None:
            assert stage.work()
    for slot in (A, B):
        of_slot = [action.split()[0] for action in engine.done if action.endswith(str(slot))]
        assert of_slot == ["open", "close"] * (len(of_slot) // 2) + ["open"] * (len(of_slot) % 2)


def test_a_step_waits_a_little_for_the_call_whose_frame_is_about_to_come() -> None:
    engine = Parrot(step_s=PATIENCE_S)
    stage = stage_of(engine)
    receive(stage, opened(A), opened(B), heard(1, A), heard(2, B))
    stage.work()
    engine.now += 0.08
    receive(stage, heard(3, A))
    assert stage.due_s() == engine.now + PATIENCE_S
    receive(stage, heard(4, B))
    assert stage.due_s() == 0.0


def test_between_steps_the_engine_is_kept_awake() -> None:
    engine = Parrot(keep_alive_s=0.5)
    stage = stage_of(engine)
    receive(stage, opened(A), heard(1, A))
    stage.work()
    assert stage.due_s() == engine.now + 0.5
    engine.now += 0.5
    stage.work()
    assert engine.done[-1] == "keep alive"
    assert stage.due_s() == engine.now + 0.5


def test_what_is_not_warm_yet_is_warmed_up_between_steps() -> None:
    engine = Parrot(step_s=0.03, cold=["c", "b", "a"])
    stage = stage_of(engine)
    assert stage.due_s() == 0.0
    stage.work()
    receive(stage, opened(A), heard(1, A))
    stage.work()
    assert engine.steps_run == [{A: 1}]
    assert stage.due_s() == 0.0
    stage.work()
    engine.now += 0.03
    assert stage.due_s() == engine.now + 0.02, "the next frame is due in 20 ms, a step takes 30"
    receive(stage, closed(A))
    work(stage)
    assert engine.done == ["warm a", "open 0", "warm b", "close 0", "warm c"]
