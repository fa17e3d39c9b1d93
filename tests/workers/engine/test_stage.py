from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.stage import PATIENCE_S, DecodeText, EngineStage
from workers.engine.streams import StepResult
from workers.messages import (
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    PipelineMessage,
    Slot,
    Span,
    Stage,
)

A, B = Slot(0), Slot(1)
FAULTY, REFUSED = 7_000, 8_000


@dataclass
class Parrot:
    """Answers the n-th frame of a call with text token n and the frame itself, the first one without sound."""

    steps: dict[Slot, int] = field(default_factory=dict)
    steps_run: list[dict[Slot, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    keep_alive_s: float | None = None

    def open(self, slot: Slot, seed: int | None = None) -> None:
        assert slot not in self.steps, "a slot is opened twice"
        self.done.append(f"open {slot}")
        self.steps[slot] = 0

    def close(self, slot: Slot) -> None:
        self.done.append(f"close {slot}")
        del self.steps[slot]

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, StepResult]:
        self.steps_run.append({slot: int(frame[0]) for slot, frame in codes.items()})
        return {slot: self._say(slot, frame) for slot, frame in codes.items()}

    def keep_alive(self) -> None:
        self.done.append("keep alive")

    def _say(self, slot: Slot, frame: CodeArray) -> StepResult:
        number = self.steps[slot]
        self.steps[slot] += 1
        if frame[0] == REFUSED:
            return StepResult(0, None, fault="no codec made this")
        if frame[0] == FAULTY:
            return StepResult(0, None, fault="not a number")
        return StepResult(number, frame if number else None)


def decoder() -> DecodeText:
    """The text decoder of one call: its tokens, as text."""
    return lambda token: f" {token}"


def stage_of(engine: Parrot, text_decoder: Callable[[], DecodeText] = decoder) -> EngineStage:
    return EngineStage(engine, text_decoder)


def opened(slot: Slot = A, epoch: int = 1, greeting: tuple[int, ...] = ()) -> Open:
    silence = np.repeat(np.array(greeting, np.int32)[:, None], 8, axis=1)
    return Open(slot, Epoch(epoch), len(greeting), silence)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def heard(value: int, slot: Slot = A, epoch: int = 1) -> Codes:
    return Codes(slot, Epoch(epoch), value, np.full(8, value, np.int32))


def receive(stage: EngineStage, *messages: PipelineMessage) -> list[PipelineMessage]:
    return [out for message in messages for out in stage.receive(message)]


def work(stage: EngineStage) -> list[PipelineMessage]:
    done: list[PipelineMessage] = []
    while stage.due_s() is not None:
        done += stage.work()
    return done


def codes(messages: list[PipelineMessage]) -> list[Codes]:
    return [message for message in messages if isinstance(message, Codes)]


def test_one_step_steps_every_call_that_has_a_frame_waiting() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A), opened(B), heard(10, A), heard(20, B))
    assert len(stage.work()) == 2
    assert stage.due_s() is None
    receive(stage, heard(21, B))
    work(stage)
    assert engine.steps_run == [{A: 10, B: 20}, {B: 21}]


def test_the_tokens_of_a_step_go_along_as_they_are_kept() -> None:
    class Keeping(Parrot):
        def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, StepResult]:
            kept = np.arange(17, dtype=np.int32) * 1_000
            return {slot: replace(said, log=kept) for slot, said in super().step(codes).items()}

    stage = stage_of(Keeping())
    receive(stage, opened(), heard(5))
    (said,) = codes(work(stage))
    assert np.frombuffer(said.tokens, "<i2").tolist() == [1_000 * place for place in range(17)]


def test_what_goes_on_are_moshis_codes_its_words_and_the_number_of_the_frame_heard() -> None:
    stage = stage_of(Parrot())
    receive(stage, opened())
    said = codes([out for value in (5, 6, 7) for out in (*receive(stage, heard(value)), *work(stage))])
    assert [message.seq for message in said] == [5, 6, 7]
    assert [message.text for message in said] == [" 0", " 1", " 2"]
    assert [None if m.codes is None else m.codes[0] for m in said] == [None, 6, 7]


def test_the_spans_of_a_frame_grow_by_the_step() -> None:
    stage = stage_of(Parrot())
    encoded = Span(Stage.ENCODE, 1.0, 2.0)
    receive(stage, opened(), Codes(A, Epoch(1), 0, np.zeros(8, np.int32), dropped=3, spans=(encoded,)))
    (said,) = codes(work(stage))
    assert said.spans[0] == encoded
    assert [span.stage for span in said.spans] == [Stage.ENCODE, Stage.STEP]
    assert said.dropped == 3


def test_a_greeting_is_one_step_for_each_frame_of_silence_before_the_caller_is_heard() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    (passed,) = receive(stage, opened(greeting=(1, 2, 3)))
    assert isinstance(passed, Open)
    assert passed.silence is None, "the decoder has no use for it"
    receive(stage, heard(100))
    said = codes(work(stage))
    assert engine.steps_run == [{A: 1}, {A: 2}, {A: 3}, {A: 100}]
    assert [message.seq for message in said] == [0, 1, 2, 100]


def test_the_greeting_of_one_call_holds_up_no_other() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(B))
    receive(stage, opened(A, greeting=(1, 2, 3)), heard(20, B))
    stage.work()
    receive(stage, heard(21, B))
    work(stage)
    assert engine.steps_run == [{B: 20, A: 1}, {B: 21, A: 2}, {A: 3}]


def test_of_a_call_at_most_one_frame_waits_and_the_others_are_counted() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(), heard(1), heard(2), heard(3))
    (said,) = codes(work(stage))
    assert (engine.steps_run, said.dropped) == ([{A: 3}], 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15))
def test_no_frame_is_lost_uncounted(bursts: list[tuple[int, int]]) -> None:
    stage, sent = stage_of(Parrot()), 0
    receive(stage, opened())
    said: list[PipelineMessage] = []
    for frames, dropped_before in bursts:
        for _ in range(frames):
            receive(stage, Codes(A, Epoch(1), sent, np.zeros(8, np.int32), dropped=dropped_before))
            sent += 1 + dropped_before
        said += work(stage)
    assert sum(1 + message.dropped for message in codes(said)) == sent


def test_frames_of_an_earlier_call_or_of_no_call_are_not_stepped() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, heard(1), opened(epoch=2), heard(2, epoch=1), heard(3, epoch=3))
    assert stage.due_s() is None
    receive(stage, closed(epoch=2), heard(4, epoch=2))
    assert stage.due_s() is None
    assert engine.steps_run == []


def test_a_call_that_closes_takes_what_waits_along() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    assert receive(stage, opened(greeting=(1, 2)), heard(5), closed())[-1] == closed()
    assert stage.due_s() is None
    assert engine.done == ["open 0", "close 0"]


def test_a_call_that_never_said_goodbye_is_closed_when_the_next_one_opens() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(epoch=1, greeting=(1, 2)), opened(epoch=2), closed(epoch=1), heard(9, epoch=2))
    (said,) = codes(work(stage))
    assert engine.done == ["open 0", "close 0", "open 0"]
    assert (said.epoch, said.seq, said.text) == (2, 9, " 0")


def test_every_call_has_a_text_decoder_of_its_own() -> None:
    made: list[DecodeText] = []

    def one() -> DecodeText:
        made.append(decoder())
        return made[-1]

    receive(stage_of(Parrot(), one), opened(A, 1), opened(B, 2), opened(A, 3))
    assert len(made) == 3


@pytest.mark.parametrize(
    ("value", "reason"), [(REFUSED, "no codec made this"), (FAULTY, "not a number")], ids=["refused", "faulty"]
)
def test_a_call_that_cannot_go_on_fails_and_the_others_go_on(value: int, reason: str) -> None:
    engine = Parrot()
    stage = stage_of(engine)
    receive(stage, opened(A), opened(B), heard(value, A), heard(20, B))
    out = work(stage)
    assert [message for message in out if isinstance(message, Failed)] == [Failed(A, Epoch(1), Stage.STEP, reason)]
    assert [message.slot for message in codes(out)] == [B]
    assert list(engine.steps) == [B]
    receive(stage, heard(1, A), heard(21, B), closed(A))
    assert [message.slot for message in codes(work(stage))] == [B]
    receive(stage, opened(A, epoch=2), heard(3, A, epoch=2))
    assert [message.slot for message in codes(work(stage))] == [A]


def test_a_call_that_failed_in_an_earlier_stage_is_closed_and_passed_on() -> None:
    engine = Parrot()
    stage = stage_of(engine)
    failed = Failed(A, Epoch(1), Stage.ENCODE, "why")
    assert receive(stage, opened(), failed)[-1] == failed
    assert engine.done == ["open 0", "close 0"]


def test_pcm_is_not_for_the_engine() -> None:
    with pytest.raises(TypeError):
        stage_of(Parrot()).receive(Frame(A, Epoch(1), 0, None))


SLOTS, EPOCHS = st.sampled_from([A, B]), st.integers(1, 3)
STORIES = st.lists(
    st.one_of(
        st.builds(opened, SLOTS, EPOCHS, st.sampled_from([(), (1, 2)])),
        st.builds(closed, SLOTS, EPOCHS),
        st.builds(heard, st.sampled_from([1, 2, FAULTY, REFUSED]), SLOTS, EPOCHS),
        st.just("work"),
    ),
    max_size=40,
)


@given(STORIES)
def test_whatever_happens_the_engine_is_opened_and_closed_by_turns(
    story: list[PipelineMessage | str],
) -> None:
    engine = Parrot()
    stage = stage_of(engine)
    for deed in story:
        if not isinstance(deed, str):
            stage.receive(deed)
        elif stage.due_s() is not None:
            assert stage.work()
    for slot in (A, B):
        of_slot = [deed.split()[0] for deed in engine.done if deed.endswith(str(slot))]
        assert of_slot == ["open", "close"] * (len(of_slot) // 2) + ["open"] * (len(of_slot) % 2)


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SlowParrot(Parrot):
    """A parrot whose steps take a while."""

    clock: Clock = field(default_factory=Clock)

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, StepResult]:
        self.clock.now += PATIENCE_S
        return super().step(codes)


def test_a_step_waits_a_little_for_the_call_whose_frame_is_about_to_come() -> None:
    engine = SlowParrot()
    clock = engine.clock
    stage = EngineStage(engine, decoder, clock)
    receive(stage, opened(A), opened(B), heard(1, A), heard(2, B))
    stage.work()
    clock.now += 0.08
    receive(stage, heard(3, A))
    assert stage.due_s() == clock.now + PATIENCE_S
    receive(stage, heard(4, B))
    assert stage.due_s() == 0.0


def test_a_greeting_waits_for_nobody_and_holds_nobody_up() -> None:
    engine, clock = Parrot(), Clock()
    stage = EngineStage(engine, decoder, clock)
    receive(stage, opened(A), opened(B, greeting=(7, 8)))
    assert stage.due_s() == 0.0
    stage.work()
    receive(stage, heard(1, A))
    assert stage.due_s() == 0.0
    stage.work()
    assert engine.steps_run == [{B: 7}, {A: 1, B: 8}]


def test_while_nobody_steps_the_engine_gets_its_keep_alive() -> None:
    engine, clock = Parrot(), Clock()
    engine.keep_alive_s = 0.5
    stage = EngineStage(engine, decoder, clock)
    receive(stage, opened(A), heard(1, A))
    stage.work()
    assert stage.due_s() == clock.now + 0.5
    clock.now += 0.5
    stage.work()
    assert engine.done[-1] == "keep alive"
    assert stage.due_s() == clock.now + 0.5
