"""Many calls and one engine, in virtual time: when its steps run, and who waits for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.delay_pattern import StepResult
from workers.engine.loopback import LoopbackEngine
from workers.engine.stage import EngineStage
from workers.engine.steering import Force
from workers.messages import FRAME_S, CodeArray, Codes, Epoch, Open, Slot, Span, Stage

PACKET_S = 0.02
RINGS_S = 2.5
SETTLED_S = RINGS_S + 3.0
CALLS = 8
GREETING = np.zeros((25, 8), np.int32)


@dataclass
class SlowEngine(LoopbackEngine):
    """A loopback whose steps take time as the test counts it."""

    step_s: float
    now: float = 0.0
    ticks: list[tuple[float, int]] = field(default_factory=list)
    """When each step began, and for how many calls."""

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force]) -> dict[Slot, StepResult]:
        self.ticks.append((self.now, len(codes)))
        self.now += self.step_s
        return {slot: StepResult(3, frame) for slot, frame in codes.items()}


@dataclass(frozen=True)
class Caller:
    """Rings at `joins_s`; the first frame is late by `late_s`, the others come `early_s` before a multiple of 80 ms."""

    joins_s: float
    early_s: float
    late_s: float
    greeted: bool

    def comes_s(self, number: int) -> float:
        multiple_s = ((self.joins_s + RINGS_S) // FRAME_S + 1 + number) * FRAME_S - self.early_s
        return multiple_s + (self.late_s if number == 0 else 0.0)


callers = st.lists(
    st.builds(
        Caller,
        joins_s=st.floats(0, 2),
        early_s=st.floats(0, PACKET_S),
        late_s=st.floats(-PACKET_S, PACKET_S),
        greeted=st.booleans(),
    ),
    min_size=1,
    max_size=CALLS,
)


def run(step_s: float, crowd: list[Caller], seconds: float) -> tuple[SlowEngine, list[tuple[float, float]], int]:
    """Return the engine, when each frame came and how long it waited, and how many frames were dropped."""
    engine = SlowEngine(step_s)
    stage = EngineStage(engine, None, lambda: engine.now)
    coming: list[tuple[float, Open | Codes]] = []
    for index, caller in enumerate(crowd):
        slot, silence = Slot(index), GREETING if caller.greeted else GREETING[:0]
        coming.append((caller.joins_s, Open(slot, Epoch(1), len(silence), silence)))
        for number in range(round(seconds / FRAME_S)):
            at_s = caller.comes_s(number)
            spans = (Span(Stage.ENCODE, at_s, at_s),)
            coming.append((at_s, Codes(slot, Epoch(1), number, np.zeros(8, np.int32), spans=spans)))
    coming = sorted((one for one in coming if one[0] < seconds - PACKET_S), key=lambda one: one[0])
    waits: list[tuple[float, float]] = []
    dropped = 0
    while coming:
        while coming and coming[0][0] <= engine.now:
            stage.receive(coming.pop(0)[1])
        due_s = stage.due_s()
        if due_s is not None and due_s <= engine.now:
            for out in stage.work():
                if isinstance(out, Codes) and len(out.spans) > 1:
                    waits.append((out.spans[0].ended_s, out.spans[1].started_s - out.spans[0].ended_s))
                    dropped += out.dropped
        elif coming:
            engine.now = min(coming[0][0], engine.now + 10 if due_s is None else max(due_s, engine.now))
    return engine, waits, dropped


@given(callers)
@settings(max_examples=30)  # each is 500 steps of eight calls
def test_a_step_of_50_ms_serves_eight_calls_at_any_phase_without_making_them_wait(crowd: list[Caller]) -> None:
    engine, waits, dropped = run(0.05, crowd, 10.0)
    assert dropped == 0
    assert max(wait_s for came_s, wait_s in waits if came_s > SETTLED_S) <= PACKET_S + 0.001
    settled = [at_s for at_s, _ in engine.ticks if SETTLED_S < at_s < SETTLED_S + 4.0]
    assert len(settled) in (49, 50, 51), "one tick in 80 ms"


@given(callers)
@settings(max_examples=30)  # each is 500 steps of eight calls
def test_who_joins_makes_others_wait_for_a_step_at_most(crowd: list[Caller]) -> None:
    _, waits, dropped = run(0.05, crowd, 6.4)
    assert dropped == 0
    assert max(wait_s for _, wait_s in waits) <= 0.05 + PACKET_S + 0.001


@given(callers)
@settings(max_examples=30)  # each is 500 steps of eight calls
def test_a_quick_step_waits_for_nobody_long(crowd: list[Caller]) -> None:
    _, waits, _ = run(0.002, crowd, 6.4)
    assert max(wait_s for came_s, wait_s in waits) <= 0.025
    assert max(wait_s for came_s, wait_s in waits if came_s > SETTLED_S) <= 3 * 0.002
