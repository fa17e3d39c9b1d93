import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.histogram import Histogram
from workers.liveness import CHECK_EVERY_S, PING_EVERY_S, Limits, Liveness, Loss
from workers.messages import (
    Close,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PipelineMessage,
    PreparePrompt,
    PromptReady,
    Said,
    Say,
    Slot,
    Stage,
)

A, B = Slot(0), Slot(1)
STEP_S = 0.05
LIMITS = Limits()
ENCODE, STEP, DECODE = Stage


def opened(slot: Slot = A, epoch: int = 1, greeting_frames: int = 0) -> Open:
    return Open(slot, Epoch(epoch), greeting_frames)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def frame(seq: int, slot: Slot = A, epoch: int = 1) -> Frame:
    return Frame(slot, Epoch(epoch), seq, None)


class Watch:
    """A pipeline as `Liveness` sees it, on a clock of its own: those of `stopped` answer no ping."""

    def __init__(self, step_s: float | None = STEP_S, ready: bool = True) -> None:
        self.now = 100.0
        self.liveness = Liveness(self.now)
        self.work = Histogram()
        self.stopped: set[Stage] = set()
        for stage in Stage:
            self.liveness.started(stage, self.now)
            if ready:
                self.liveness.ready(stage, self.now)
        if step_s is not None:
            self.work.add(step_s)
            self.pong()

    def pong(self) -> None:
        for stage in Stage:
            if stage not in self.stopped:
                self.liveness.answered(stage, self.work if stage is STEP else Histogram(), self.now)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.liveness.sent(message, self.now)

    def come(self, *messages: Message) -> None:
        for message in messages:
            self.liveness.received(message, self.now)

    def wait(self, seconds: float, pings: bool = True) -> Loss | None:
        """Let time pass, with an answer a second; return the first hang."""
        until_s = self.now + seconds
        while self.now < until_s:
            self.now += CHECK_EVERY_S
            if pings and self.now % 1.0 < CHECK_EVERY_S:
                self.pong()
            if hang := self.liveness.hang(self.now):
                return hang
        return None


@pytest.mark.parametrize(
    ("step_s", "limit_s"), [(0.05, 1.0), (2.0, 10.0), (None, LIMITS.start_s)], ids=["fast", "slow", "not measured"]
)
def test_a_slow_model_gets_five_steps_and_the_first_one_as_long_as_a_start(
    step_s: float | None, limit_s: float
) -> None:
    watch = Watch(step_s)
    watch.send(frame(0))
    assert watch.wait(limit_s - 0.1, pings=False) is None
    hang = watch.wait(1.0, pings=False)
    assert hang
    assert hang.reason == f"no frame for {limit_s:.1f} s"


def test_the_step_is_that_of_the_last_second() -> None:
    watch = Watch(step_s=2.0)
    for _ in range(10):
        watch.work.add(0.1)
    watch.pong()
    assert watch.liveness.step_s == pytest.approx(0.1)


def test_long_work_that_reports_progress_does_not_hang_and_hangs_when_it_stops() -> None:
    watch = Watch()
    watch.send(frame(0))
    for _ in range(20):
        assert watch.wait(0.9, pings=False) is None
        watch.liveness.progressed(STEP, watch.now)
    assert watch.wait(2, pings=False) is not None


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        ([opened()], [opened()]),
        ([opened(greeting_frames=3)], [opened(greeting_frames=3), frame(0), frame(1), frame(2)]),
        ([opened(), frame(0), frame(1), frame(2)], [opened(), frame(2)]),
        ([opened(), frame(0)], [opened(), Failed(A, Epoch(1), STEP, "why")]),
        ([opened(), frame(0), closed()], [opened(), closed()]),
        ([opened(), frame(5), closed(), opened(epoch=2)], [opened(), frame(5), closed(), opened(epoch=2)]),
    ],
    ids=["open", "greeting", "older frames dropped", "failed", "closed", "given out again"],
)
def test_what_comes_back_is_no_more_under_way(sent: list[PipelineMessage], came: list[PipelineMessage]) -> None:
    watch = Watch()
    watch.send(*sent)
    watch.come(*came)
    assert watch.wait(30) is None
    watch.send(*sent)
    watch.come(*came[:-1])
    assert watch.wait(2) is not None, "the last of them was still to come"


def test_a_start_without_progress_has_a_limit_and_progress_resets_it() -> None:
    watch = Watch(step_s=None, ready=False)
    for _ in range(10):
        assert watch.wait(LIMITS.start_s - 1, pings=False) is None
        for stage in Stage:
            watch.liveness.progressed(stage, watch.now)
    hang = watch.wait(LIMITS.start_s + 1, pings=False)
    assert hang
    assert hang.reason == "no progress of its start for 120 s"


@pytest.mark.parametrize("busy", [False, True])
def test_after_a_jump_of_the_clock_the_count_starts_anew(busy: bool) -> None:
    watch = Watch()
    if busy:
        watch.send(frame(0))
    watch.now += 3_600
    assert watch.liveness.hang(watch.now) is None
    assert watch.wait(0.9) is None
    assert watch.wait(30, pings=False), "and it goes on counting"


def test_it_answers_while_every_stage_has_lately_lived() -> None:
    watch = Watch()
    assert watch.liveness.answering(watch.now)
    watch.stopped = {DECODE}
    watch.wait(2.5)
    assert not watch.liveness.answering(watch.now)
    assert not Watch(ready=False).liveness.answering(100.0)


MOVES = st.tuples(st.sampled_from(["send", "open", "close", "sleep"]), st.sampled_from([A, B]), st.floats(0, 0.5))


@given(st.lists(MOVES, max_size=60))
def test_a_pipeline_that_does_its_work_never_hangs(story: list[tuple[str, Slot, float]]) -> None:
    """Whatever is sent comes back within half a second; the clock may jump at any time."""
    watch, seqs, epochs = Watch(), dict.fromkeys((A, B), 0), dict.fromkeys((A, B), 0)
    for move, slot, seconds in story:
        match move:
            case "open":
                epochs[slot] += 1
                seqs[slot] = 0
                sent: PipelineMessage = opened(slot, epochs[slot])
            case "close":
                sent = closed(slot, epochs[slot])
            case "send":
                seqs[slot] += 1
                sent = frame(seqs[slot], slot, epochs[slot])
            case _:
                watch.now += 1_000 * seconds
                assert watch.liveness.hang(watch.now) is None
                continue
        watch.send(sent)
        assert watch.wait(seconds) is None
        watch.come(sent)
    assert watch.wait(20) is None


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 0.5))), st.sampled_from(Stage), st.booleans())
def test_a_stage_that_stops_is_always_noticed(story: list[tuple[Slot, float]], stage: Stage, under_way: bool) -> None:
    watch = Watch()
    for seq, (slot, seconds) in enumerate(story):
        watch.send(frame(seq, slot))
        assert watch.wait(seconds) is None
        watch.come(frame(seq, slot))
    watch.stopped = {stage}
    if under_way:
        watch.send(frame(len(story), A))
    since_s = watch.now
    hang = watch.wait(20)
    limit_s = LIMITS.busy_s if under_way else LIMITS.idle_s
    assert watch.now - since_s <= limit_s + 2 * CHECK_EVERY_S
    assert hang == Loss(stage, "no frame for 1.0 s" if under_way else "no answer for 3 s", hangs=True)


def named(stage: Stage, stops_ms: int, late_ms: int) -> Stage | None:
    """Return who is said to hang. Checks come as the supervisor makes them, each a little late; 5 ms answer a ping."""
    watch, check_ms, ping_ms, every_ms = Watch(), 0, 0, round(CHECK_EVERY_S * 1000)
    for ms in range(stops_ms + 3_000):
        watch.now += 0.001
        if ms == stops_ms:
            watch.stopped = {stage}
            watch.send(frame(0))
        if ms == ping_ms + 5:
            watch.pong()
        if ms >= check_ms:
            ping_ms = ms if ms >= ping_ms + 1000 * PING_EVERY_S else ping_ms
            check_ms = ms + every_ms + late_ms
            if hang := watch.liveness.hang(watch.now):
                return hang.stage
    return None


@pytest.mark.parametrize("late_ms", [1, 20, 100])
@pytest.mark.parametrize("stage", Stage)
def test_the_stage_that_stops_is_named_whenever_it_does_between_two_pings(stage: Stage, late_ms: int) -> None:
    """Encoder or decoder in place of the engine, or the engine in theirs, would cost the calls another restart."""
    assert {named(stage, stops_ms, late_ms) for stops_ms in range(6, 1_200, 6)} == {stage}


def test_a_prompt_is_waited_for_by_nobody_and_its_progress_is_a_sign_of_life() -> None:
    watch = Watch()
    watch.send(PreparePrompt("ada", "Be kind."))
    assert watch.wait(60.0) is None
    watch.send(opened(greeting_frames=1))
    for _ in range(10):
        assert watch.wait(0.5, pings=False) is None
        watch.liveness.progressed(STEP, watch.now)
    watch.come(PromptReady("ada", 250, 1))
    assert watch.wait(0.5, pings=False) is None
    assert watch.wait(5.0, pings=False) is not None


def test_what_is_to_be_said_may_take_its_time_and_what_has_been_said_answers_no_frame() -> None:
    watch = Watch()
    watch.send(opened(), Say(A, Epoch(1), 1, "hello"))
    watch.come(opened())
    assert watch.wait(30) is None
    watch.send(frame(0))
    watch.come(Said(A, Epoch(1), 1, whole=True))
    assert watch.wait(2) is not None
