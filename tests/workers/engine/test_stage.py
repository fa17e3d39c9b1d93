from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.engine.loopback import LoopbackEngine, NoPieces
from workers.engine.stage import PATIENCE_S, EngineStage
from workers.messages import (
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    Payload,
    PipelineMessage,
    Slot,
    Span,
    Stage,
)
from workers.scheduler import LIVE_S

A, B = Slot(0), Slot(1)
FAULTY, REFUSED = 7_000, 8_000


@dataclass(frozen=True)
class Said:
    """What one step of one call brought."""

    text_token: int
    codes: Payload | None
    fault: str = ""
    log: NDArray[np.int32] | None = None


@dataclass
class Parrot:
    """Answers the n-th frame of a call with text token n and the frame itself, the first one without sound."""

    steps: dict[Slot, int] = field(default_factory=dict)
    ticks: list[dict[Slot, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    keep_alive_s: float | None = None

    def open(self, slot: Slot, seed: int | None = None) -> None:
        assert slot not in self.steps, "a slot is opened twice"
        self.done.append(f"open {slot}")
        self.steps[slot] = 0

    def close(self, slot: Slot) -> None:
        self.done.append(f"close {slot}")
        del self.steps[slot]

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Said]:
        self.ticks.append({slot: int(frame[0]) for slot, frame in codes.items()})
        return {slot: self._say(slot, frame) for slot, frame in codes.items()}

    def keep_alive(self) -> None:
        self.done.append("beat")

    def _say(self, slot: Slot, frame: CodeArray) -> Said:
        number = self.steps[slot]
        self.steps[slot] += 1
        if frame[0] == REFUSED:
            return Said(0, None, "no codec made this")
        if frame[0] == FAULTY:
            return Said(0, None, "not a number")
        return Said(number, frame if number else None)


class Counted:
    """The pieces of one call: its tokens, as text."""

    def push(self, token: int) -> str:
        return f" {token}"


def station_of(engine: Parrot, pieces: Callable[[], Counted] = Counted) -> EngineStage:
    return EngineStage(engine, pieces)


def opened(slot: Slot = A, epoch: int = 1, greeting: tuple[int, ...] = ()) -> Open:
    silence = np.repeat(np.array(greeting, np.int32)[:, None], 8, axis=1)
    return Open(slot, Epoch(epoch), len(greeting), silence)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def heard(value: int, slot: Slot = A, epoch: int = 1) -> Codes:
    return Codes(slot, Epoch(epoch), value, np.full(8, value, np.int32))


def receive(station: EngineStage, *messages: PipelineMessage) -> list[PipelineMessage]:
    return [out for message in messages for out in station.receive(message)]


def work(station: EngineStage) -> list[PipelineMessage]:
    done: list[PipelineMessage] = []
    while station.due_s() is not None:
        done += station.work()
    return done


def codes(messages: list[PipelineMessage]) -> list[Codes]:
    return [message for message in messages if isinstance(message, Codes)]


def test_one_tick_steps_every_call_that_has_a_frame_waiting() -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, opened(A), opened(B), heard(10, A), heard(20, B))
    assert len(station.work()) == 2
    assert station.due_s() is None
    receive(station, heard(21, B))
    work(station)
    assert engine.ticks == [{A: 10, B: 20}, {B: 21}]


def test_the_tokens_of_a_step_go_along_as_they_are_kept() -> None:
    class Keeping(Parrot):
        def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Said]:
            kept = np.arange(17, dtype=np.int32) * 1_000
            return {slot: replace(said, log=kept) for slot, said in super().step(codes).items()}

    station = station_of(Keeping())
    receive(station, opened(), heard(5))
    (said,) = codes(work(station))
    assert np.frombuffer(said.tokens, "<i2").tolist() == [1_000 * place for place in range(17)]


def test_what_goes_on_are_moshis_codes_its_words_and_the_number_of_the_frame_heard() -> None:
    station = station_of(Parrot())
    receive(station, opened())
    said = codes([out for value in (5, 6, 7) for out in (*receive(station, heard(value)), *work(station))])
    assert [message.seq for message in said] == [5, 6, 7]
    assert [message.text for message in said] == [" 0", " 1", " 2"]
    assert [None if m.codes is None else m.codes[0] for m in said] == [None, 6, 7]


def test_the_spans_of_a_frame_grow_by_the_step() -> None:
    station = station_of(Parrot())
    encoded = Span(Stage.ENCODE, 1.0, 2.0)
    receive(station, opened(), Codes(A, Epoch(1), 0, np.zeros(8, np.int32), dropped=3, spans=(encoded,)))
    (said,) = codes(work(station))
    assert said.spans[0] == encoded
    assert [span.stage for span in said.spans] == [Stage.ENCODE, Stage.STEP]
    assert said.dropped == 3


def test_a_greeting_is_one_step_for_each_frame_of_silence_before_the_caller_is_heard() -> None:
    engine = Parrot()
    station = station_of(engine)
    (passed,) = receive(station, opened(greeting=(1, 2, 3)))
    assert isinstance(passed, Open)
    assert passed.silence is None, "the decoder has no use for it"
    receive(station, heard(100))
    said = codes(work(station))
    assert engine.ticks == [{A: 1}, {A: 2}, {A: 3}, {A: 100}]
    assert [message.seq for message in said] == [0, 1, 2, 100]


def test_the_greeting_of_one_call_holds_up_no_other() -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, opened(B))
    receive(station, opened(A, greeting=(1, 2, 3)), heard(20, B))
    station.work()
    receive(station, heard(21, B))
    work(station)
    assert engine.ticks == [{B: 20, A: 1}, {B: 21, A: 2}, {A: 3}]


def test_of_a_call_at_most_one_frame_waits_and_the_others_are_counted() -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, opened(), heard(1), heard(2), heard(3))
    (said,) = codes(work(station))
    assert (engine.ticks, said.dropped) == ([{A: 3}], 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15))
def test_no_frame_is_lost_uncounted(bursts: list[tuple[int, int]]) -> None:
    station, sent = station_of(Parrot()), 0
    receive(station, opened())
    said: list[PipelineMessage] = []
    for frames, dropped_before in bursts:
        for _ in range(frames):
            receive(station, Codes(A, Epoch(1), sent, np.zeros(8, np.int32), dropped=dropped_before))
            sent += 1 + dropped_before
        said += work(station)
    assert sum(1 + message.dropped for message in codes(said)) == sent


def test_frames_of_an_earlier_call_or_of_no_call_are_not_stepped() -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, heard(1), opened(epoch=2), heard(2, epoch=1), heard(3, epoch=3))
    assert station.due_s() is None
    receive(station, closed(epoch=2), heard(4, epoch=2))
    assert station.due_s() is None
    assert engine.ticks == []


def test_a_call_that_closes_takes_what_waits_along() -> None:
    engine = Parrot()
    station = station_of(engine)
    assert receive(station, opened(greeting=(1, 2)), heard(5), closed())[-1] == closed()
    assert station.due_s() is None
    assert engine.done == ["open 0", "close 0"]


def test_a_call_that_never_said_goodbye_is_closed_when_the_next_one_opens() -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, opened(epoch=1, greeting=(1, 2)), opened(epoch=2), closed(epoch=1), heard(9, epoch=2))
    (said,) = codes(work(station))
    assert engine.done == ["open 0", "close 0", "open 0"]
    assert (said.epoch, said.seq, said.text) == (2, 9, " 0")


def test_every_call_has_pieces_of_its_own() -> None:
    made: list[Counted] = []

    def pieces() -> Counted:
        made.append(Counted())
        return made[-1]

    receive(station_of(Parrot(), pieces), opened(A, 1), opened(B, 2), opened(A, 3))
    assert len({id(piece) for piece in made}) == 3


@pytest.mark.parametrize(
    ("value", "reason"), [(REFUSED, "no codec made this"), (FAULTY, "not a number")], ids=["refused", "faulty"]
)
def test_a_call_that_cannot_go_on_fails_and_the_others_go_on(value: int, reason: str) -> None:
    engine = Parrot()
    station = station_of(engine)
    receive(station, opened(A), opened(B), heard(value, A), heard(20, B))
    out = work(station)
    assert [message for message in out if isinstance(message, Failed)] == [Failed(A, Epoch(1), Stage.STEP, reason)]
    assert [message.slot for message in codes(out)] == [B]
    assert list(engine.steps) == [B]
    receive(station, heard(1, A), heard(21, B), closed(A))
    assert [message.slot for message in codes(work(station))] == [B]
    receive(station, opened(A, epoch=2), heard(3, A, epoch=2))
    assert [message.slot for message in codes(work(station))] == [A]


def test_a_call_that_failed_in_an_earlier_stage_is_closed_and_passed_on() -> None:
    engine = Parrot()
    station = station_of(engine)
    failed = Failed(A, Epoch(1), Stage.ENCODE, "why")
    assert receive(station, opened(), failed)[-1] == failed
    assert engine.done == ["open 0", "close 0"]


def test_a_late_failure_of_an_earlier_call_closes_nothing() -> None:
    engine = Parrot()
    receive(station_of(engine), opened(epoch=2), Failed(A, Epoch(1), Stage.ENCODE, "why"))
    assert list(engine.steps) == [A]


def test_pcm_is_not_for_the_engine() -> None:
    with pytest.raises(TypeError):
        station_of(Parrot()).receive(Frame(A, Epoch(1), 0, None))


def test_the_loopback_engine_says_in_the_same_step_what_it_hears() -> None:
    station = EngineStage(LoopbackEngine(), NoPieces)
    receive(station, opened(), heard(42))
    (said,) = codes(work(station))
    assert said.codes is not None
    assert (said.seq, said.text, said.codes[0]) == (42, "", 42)


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
    station = station_of(engine)
    for deed in story:
        if not isinstance(deed, str):
            station.receive(deed)
        elif station.due_s() is not None:
            assert station.work()
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

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Said]:
        self.clock.now += PATIENCE_S
        return super().step(codes)


def test_a_tick_waits_a_little_for_the_call_whose_frame_is_about_to_come() -> None:
    engine = SlowParrot()
    clock = engine.clock
    station = EngineStage(engine, Counted, clock)
    receive(station, opened(A), opened(B), heard(1, A), heard(2, B))
    station.work()
    clock.now += 0.08
    receive(station, heard(3, A))
    assert station.due_s() == clock.now + PATIENCE_S
    receive(station, heard(4, B))
    assert station.due_s() == 0.0


def test_a_call_whose_frames_have_stopped_is_not_waited_for() -> None:
    clock = Clock()
    station = EngineStage(Parrot(), Counted, clock)
    receive(station, opened(A), opened(B), heard(1, A), heard(2, B))
    station.work()
    clock.now += LIVE_S + 0.01
    receive(station, heard(3, A))
    assert station.due_s() == 0.0


def test_a_greeting_waits_for_nobody_and_holds_nobody_up() -> None:
    engine, clock = Parrot(), Clock()
    station = EngineStage(engine, Counted, clock)
    receive(station, opened(A), opened(B, greeting=(7, 8)))
    assert station.due_s() == 0.0
    station.work()
    receive(station, heard(1, A))
    assert station.due_s() == 0.0
    station.work()
    assert engine.ticks == [{B: 7}, {A: 1, B: 8}]


def test_while_nobody_steps_the_engine_gets_its_keep_alive() -> None:
    engine, clock = Parrot(), Clock()
    engine.keep_alive_s = 0.5
    station = EngineStage(engine, Counted, clock)
    receive(station, opened(A), heard(1, A))
    station.work()
    assert station.due_s() == clock.now + 0.5
    clock.now += 0.5
    station.work()
    assert engine.done[-1] == "beat"
    assert station.due_s() == clock.now + 0.5
