"""The batched step against the official one, and what it promises on top."""

from collections.abc import Iterator, Sequence
from functools import cache

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.small import ARGMAX, Said, build, official, speech
from workers.engine import model
from workers.engine.engine import Engine
from workers.engine.sampling import SamplingSettings
from workers.engine.streams import StepResult
from workers.messages import Slot

SLOTS = 3


def said(step: StepResult) -> Said:
    assert not step.fault
    return step.text_token, None if step.codes is None else step.codes.tolist()


class Board:
    """Calls on an engine: the n-th call hears `speech(n)`, whatever slot it is in."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: dict[Slot, int] = {}
        self.transcripts: list[list[Said]] = []

    def join(self, slot: Slot) -> None:
        self.calls[slot] = len(self.transcripts)
        self.transcripts.append([])
        self.engine.open(slot)

    def leave(self, slot: Slot) -> None:
        del self.calls[slot]
        self.engine.close(slot)

    def step(self, slots: Sequence[Slot]) -> None:
        heard = {slot: self.next_frame(self.calls[slot]) for slot in slots}
        for slot, step in self.engine.step(heard).items():
            self.transcripts[self.calls[slot]].append(said(step))

    def next_frame(self, call: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        frame: np.ndarray[tuple[int], np.dtype[np.int32]] = speech(call, 100)[len(self.transcripts[call])]
        return frame


@cache
def expected(name: str, dtype: mx.Dtype, bits: int | None, call: int, steps: int) -> list[Said]:
    return official(build(name, dtype, bits), speech(call, 100)[: steps + 1])


def assert_official(board: Board, name: str, dtype: mx.Dtype, bits: int | None, steps: int) -> None:
    for call, transcript in enumerate(board.transcripts):
        assert transcript == expected(name, dtype, bits, call, steps)[: len(transcript)], f"call {call}"


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
def test_every_row_says_what_the_official_model_says_alone(dtype: mx.Dtype) -> None:
    board = Board(Engine(build(dtype=dtype), SLOTS, ARGMAX, context=64))
    a, b, c = Slot(0), Slot(1), Slot(2)
    board.join(a)
    board.step([a])
    board.step([a])
    board.join(c)
    for _ in range(5):
        board.step([a, c])
    board.join(b)
    board.step([b])
    board.step([c, b])
    board.leave(c)
    for _ in range(4):
        board.step([b, a])
    board.join(c)
    for _ in range(8):
        board.step([a, b, c])
    assert [len(transcript) for transcript in board.transcripts] == [19, 6, 14, 8]
    assert_official(board, "tiny", dtype, None, 20)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(mx.float32, None), (mx.bfloat16, 4), (mx.bfloat16, 8)],
    ids=["f32", "q4", "q8"],
)
def test_a_larger_model_packed_or_not(dtype: mx.Dtype, bits: int | None) -> None:
    wanted = [expected("mid", dtype, bits, call, 5) for call in range(2)]
    board = Board(Engine(build("mid", dtype, bits), 2, ARGMAX, context=64))
    board.join(Slot(0))
    board.step([Slot(0)])
    board.join(Slot(1))
    for _ in range(4):
        board.step([Slot(0), Slot(1)])
    assert board.transcripts == [wanted[0], wanted[1][:4]]


@cache
def shared_engine() -> Engine:
    return Engine(build(), SLOTS, ARGMAX, context=64)


@st.composite
def mornings(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Twelve ticks; before each, a slot may be opened or closed, and any of the open ones take part."""
    open_slots: set[int] = set()
    ticks: list[tuple[str, list[int]]] = []
    for _ in range(12):
        slot = draw(st.integers(0, SLOTS - 1))
        change = draw(st.sampled_from(["none", "join", "leave", "join"]))
        if change == "join" and slot not in open_slots:
            open_slots.add(slot)
        elif change == "leave" and slot in open_slots:
            open_slots.remove(slot)
        else:
            change = "none"
        present = draw(st.lists(st.sampled_from(sorted(open_slots)), unique=True)) if open_slots else []
        ticks.append((f"{change} {slot}", present))
    return ticks


@settings(max_examples=25, deadline=None)
@given(morning=mornings())
def test_calls_may_come_go_and_pause_at_any_tick(morning: list[tuple[str, list[int]]]) -> None:
    engine = shared_engine()
    board = Board(engine)
    for change, present in morning:
        what, slot = change.split()
        if what == "join":
            board.join(Slot(int(slot)))
        if what == "leave":
            board.leave(Slot(int(slot)))
        board.step([Slot(slot) for slot in present])
    for taken in list(board.calls):
        board.leave(taken)
    assert_official(board, "tiny", mx.float32, None, 12)


def talk(engine: Engine, slot: Slot, call: int, steps: int) -> Iterator[StepResult]:
    for frame in speech(call, steps):
        yield engine.step({slot: frame})[slot]


def test_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "can_compile", lambda: False)
    engine = Engine(build(), 1, ARGMAX, context=64)
    engine.open(Slot(0))
    assert [said(step) for step in talk(engine, Slot(0), 0, 6)] == expected("tiny", mx.float32, None, 0, 20)[:6]


def test_warming_up_leaves_no_trace() -> None:
    engine = Engine(build(), 2, ARGMAX, context=64)
    engine.warm()
    engine.open(Slot(1))
    before = [said(step) for step in talk(engine, Slot(1), 0, 3)]
    engine.warm()
    after = [said(engine.step({Slot(1): frame})[Slot(1)]) for frame in speech(0, 6)[3:]]
    assert before + after == expected("tiny", mx.float32, None, 0, 20)[:6]


def test_a_step_writes_the_ring_in_place() -> None:
    engine = Engine(build(), 2, ARGMAX, context=3000)
    engine.open(Slot(0))
    list(talk(engine, Slot(0), 0, 3))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    list(talk(engine, Slot(0), 0, 3))
    one_layer = 2 * 3000 * 128 * 4
    assert mx.get_peak_memory() - before < one_layer


def test_a_seeded_call_does_not_hear_its_neighbours() -> None:
    def run(others: int) -> list[Said]:
        engine = Engine(build(), 4, SamplingSettings(repetition_penalty=1.2), context=64)
        for slot in range(1, others + 1):
            engine.open(Slot(slot))
        engine.open(Slot(0), seed=7)
        said_there = []
        for step, frame in enumerate(speech(0, 12)):
            crowd = {Slot(slot): speech(slot, 12)[step] for slot in range(1, others + 1) if step % 3}
            said_there.append(said(engine.step({Slot(0): frame, **crowd})[Slot(0)]))
        return said_there

    alone = run(0)
    assert run(3) == alone
    assert len({text for text, _ in alone}) > 3


def test_rows_keep_to_their_own_rules() -> None:
    engine = Engine(build(), 2, SamplingSettings(), context=64)
    engine.open(Slot(0), seed=1)
    engine.open(
        Slot(1), sampling=SamplingSettings(text_temperature=0, audio_temperature=0, text_top_k=5, audio_top_k=9)
    )
    frames = speech(0, 8)
    both = [engine.step({Slot(0): frame, Slot(1): frame}) for frame in frames]
    assert [said(step[Slot(1)]) for step in both] == expected("tiny", mx.float32, None, 0, 20)[:8]
    assert [said(step[Slot(0)]) for step in both] != [said(step[Slot(1)]) for step in both]


def test_a_top_k_beyond_the_default_is_refused() -> None:
    engine = Engine(build(), 1, SamplingSettings(), context=64)
    with pytest.raises(ValueError, match="top_k"):
        engine.open(Slot(0), sampling=SamplingSettings(audio_top_k=251))


BAD = [
    np.full(8, 2048, np.int32),
    np.full(8, -1, np.int32),
    np.zeros(7, np.int32),
    np.zeros((1, 8), np.int32),
    np.zeros(8, np.float32),
]


@pytest.mark.parametrize("bad", BAD, ids=["too large", "negative", "too few", "shape", "not integers"])
def test_a_bad_frame_ends_one_call_only(bad: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
    engine = shared_engine()
    good, poor = Slot(0), Slot(1)
    engine.open(good)
    engine.open(poor)
    frames = speech(0, 4)
    first = engine.step({good: frames[0], poor: bad})
    assert first[poor].fault
    assert engine.step({Slot(2): frames[0]})[Slot(2)].fault == "not open"
    assert engine.step({}) == {}
    assert not first[good].fault
    engine.close(poor)
    steps = [said(first[good]), *(said(engine.step({good: frame})[good]) for frame in frames[1:])]
    engine.close(good)
    assert steps == expected("tiny", mx.float32, None, 0, 20)[:4]


def test_what_is_not_a_number_stays_in_its_row_and_is_cleared() -> None:
    engine = Engine(build(), 2, ARGMAX, context=64)
    sound, sick = Slot(0), Slot(1)
    engine.open(sound)
    engine.open(sick)
    transcript = []
    for number, frame in enumerate(speech(0, 6)):
        if number == 3:
            engine._kv_cache.values[0][sick, :, 0] = mx.nan
        steps = engine.step({sound: frame, sick: frame} if number < 4 else {sound: frame})
        transcript.append(said(steps[sound]))
        assert bool(number < 4 and steps[sick].fault) == (number == 3)
    engine.close(sick)
    engine.open(sick)
    assert transcript == expected("tiny", mx.float32, None, 0, 20)[:6]
    assert [said(step) for step in talk(engine, sick, 0, 6)] == transcript
