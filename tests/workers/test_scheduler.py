import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.messages import FRAME_S, Slot
from workers.scheduler import EARLY_S, LIVE_S, BatchScheduler

A, B, C = Slot(0), Slot(1), Slot(2)
PATIENCE_S = 0.015


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def scheduler_of(clock: Clock, *slots: Slot) -> BatchScheduler:
    """A scheduler that has had one frame of each of these calls just now."""
    scheduler = BatchScheduler(PATIENCE_S, clock)
    for slot in slots:
        scheduler.frame_arrived(slot)
    return scheduler


def test_the_first_waits_so_long_for_those_that_are_missing() -> None:
    clock = Clock()
    scheduler = scheduler_of(clock, A, B, C)
    assert scheduler.due_s([]) is None
    assert scheduler.due_s([A, B, C]) == 0.0
    clock.now += 0.08
    first_s = clock.now
    scheduler.frame_arrived(A)
    assert scheduler.due_s([A]) == first_s + PATIENCE_S
    clock.now += 0.01
    scheduler.frame_arrived(B)
    assert scheduler.due_s([A, B]) == first_s + PATIENCE_S, "the second does not make the first wait longer"
    clock.now += 0.001
    scheduler.frame_arrived(C)
    assert scheduler.due_s([A, B, C]) == 0.0


@pytest.mark.parametrize(("silent_s", "waited_for"), [(LIVE_S - 0.001, True), (LIVE_S + 0.001, False)])
def test_a_call_whose_frames_have_stopped_is_not_waited_for(silent_s: float, waited_for: bool) -> None:
    clock = Clock()
    scheduler = scheduler_of(clock, A, B)
    clock.now += silent_s
    scheduler.frame_arrived(A)
    assert scheduler.due_s([A]) == (clock.now + PATIENCE_S if waited_for else 0.0)


def test_a_call_that_is_over_is_not_waited_for() -> None:
    scheduler = scheduler_of(Clock(), A, B)
    scheduler.call_ended(B)
    scheduler.call_ended(C)
    assert scheduler.due_s([A]) == 0.0


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.floats(0, 0.1)), min_size=1, max_size=30))
def test_no_frame_ever_waits_longer_than_that(came: list[tuple[Slot, float]]) -> None:
    clock, waiting = Clock(), dict[Slot, float]()
    scheduler = BatchScheduler(PATIENCE_S, clock)
    for slot, wait_s in came:
        clock.now += wait_s
        due_s = scheduler.due_s(waiting)
        if due_s is not None and due_s <= clock.now:
            waiting.clear()
        scheduler.frame_arrived(slot)
        waiting[slot] = clock.now
        due_s = scheduler.due_s(waiting)
        assert due_s is not None
        assert due_s <= min(waiting.values()) + PATIENCE_S


@pytest.mark.parametrize(("step_s", "patience_s"), [(0.001, 0.002), (0.03, PATIENCE_S), (0.065, 0.01), (0.09, 0.0)])
def test_nobody_waits_longer_than_it_is_worth_nor_than_there_is_time(step_s: float, patience_s: float) -> None:
    scheduler = scheduler_of(Clock(), A, B)
    scheduler.step_took(step_s)
    assert scheduler.patience_s == pytest.approx(patience_s)


def test_a_first_frame_waits_for_those_who_would_be_made_late() -> None:
    clock = Clock()
    scheduler = scheduler_of(clock, A)
    scheduler.step_took(0.05)
    clock.now += 0.04
    scheduler.frame_arrived(B)
    assert scheduler.due_s([B]) == clock.now + 0.05
    clock.now += 0.04
    scheduler.frame_arrived(A)
    assert scheduler.due_s([A, B]) == 0.0


def test_a_greeting_is_stepped_where_it_makes_nobody_late() -> None:
    clock = Clock()
    scheduler = scheduler_of(clock, A)
    assert scheduler.gap_s() == 0.0
    scheduler.step_took(0.05)
    assert scheduler.gap_s() == 0.0
    clock.now += 0.04
    assert scheduler.gap_s() == pytest.approx(100.08), "when the next frame of A is due"


def test_a_frame_may_have_come_earlier() -> None:
    clock = Clock()
    scheduler = scheduler_of(clock, A, B)
    clock.now += 0.1
    scheduler.frame_arrived(A, clock.now - 0.02)
    assert scheduler.due_s([A]) == pytest.approx(clock.now - 0.02 + PATIENCE_S)


def test_time_is_free_until_the_next_frame_of_any_live_call_may_come() -> None:
    clock = Clock()
    scheduler = scheduler_of(clock)
    alone_s = scheduler.free_s()
    assert 0.06 < alone_s < FRAME_S, "calls are on, none of which has sent"
    for slot in (A, B):
        scheduler.frame_arrived(slot)
    clock.now += 0.03
    scheduler.frame_arrived(B)
    assert scheduler.free_s() == pytest.approx(FRAME_S - EARLY_S - 0.03), "when A may send"
    clock.now += 0.06
    assert scheduler.free_s() == 0.0, "A is late"
    clock.now += LIVE_S
    assert scheduler.free_s() == alone_s, "both have stopped"
