"""Calls that come back beside live ones: a pass over n steps takes 10 ms and n ms more, on the clock of the test."""

from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytest

from tests.workers.engine.test_prompt_queue import PASS_S, POSITION_S, Bench, Computer, wanted
from tests.workers.engine.test_stage import A, B, closed, heard, opened
from workers.engine.delay_pattern import LogArray, parse_log, serialize_log
from workers.liveness import Limits
from workers.messages import (
    FRAME_S,
    GAP_FRAMES,
    STEP_TOKENS,
    CallPersona,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Message,
    PromptRefused,
    Resume,
    Resumed,
    Said,
    Say,
    Slot,
    Stage,
)

C = Slot(2)
CONTEXT = 100
PASS_128_S = PASS_S + 128 * POSITION_S
UNFORESEEN = 77
"""The first token of a log that no engine can prefill."""


@dataclass
class Rebuilder(Computer):
    """Notes what it prefills: the numbers of the steps, which are their tokens."""

    context: int = CONTEXT
    prefilled: dict[Slot, list[int]] = field(default_factory=dict)
    left_out: dict[Slot, int] = field(default_factory=dict)
    order: list[Slot] = field(default_factory=list)

    def read_log(self, log: bytes) -> LogArray:
        return parse_log(log)

    def own_frames(self, log: LogArray) -> None: ...

    def leave_out(self, slot: Slot, steps: LogArray, skipped: int = 0) -> None:
        self.left_out[slot] = len(steps) + skipped

    def prefill(self, slot: Slot, log: LogArray) -> bool:
        assert slot in self.steps, "not open"
        if len(log) and log[0, 0] == UNFORESEEN:
            raise MemoryError
        self.now += PASS_S + POSITION_S * len(log)
        self.chunks.append(len(log))
        self.prefilled.setdefault(slot, []).extend(log[:, 0].tolist())
        self.order += [slot] if slot not in self.order else []
        return True


def comes_back(
    steps: int, slot: Slot = A, epoch: int = 1, budget_s: float = 1e6, prompt: str = "", first: int = 1_000
) -> Resume:
    log = np.repeat(np.arange(first, first + steps, dtype=np.int32)[:, None], STEP_TOKENS, 1)
    return Resume(slot, Epoch(epoch), serialize_log(log), 500, budget_s, persona=CallPersona(prompt=prompt))


def is_heard(slot: Slot = A, epoch: int = 1) -> Resumed:
    """What the encoder says when all codes of the gap have been sent."""
    return Resumed(slot, Epoch(epoch), 0, 0)


def answers(bench: Bench) -> list[Message]:
    return [message for message in bench.sent if isinstance(message, Resumed | Failed)]


def said(bench: Bench) -> list[tuple[Slot, int]]:
    return [(message.slot, message.seq) for message in bench.sent if isinstance(message, Codes)]


def test_calls_come_back_one_after_another_in_the_order_in_which_they_wait_and_show_their_progress() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(300, B), comes_back(200, A), comes_back(0, C), *map(is_heard, (A, B, C)))
    bench.work()
    assert answers(bench) == [Resumed(B, Epoch(1), 300, 0), Resumed(A, Epoch(1), 200, 0), Resumed(C, Epoch(1), 0, 0)]
    assert engine.prefilled[B] == list(range(1_000, 1_300))
    assert engine.prefilled[A] == list(range(1_000, 1_200))
    assert [report for report in bench.progress if report[1] == report[2]] == [
        ("resuming a call", steps, steps) for steps in (300, 200, 0)
    ]
    assert len(bench.progress) > 5
    assert bench.stage.due_s() is None


def test_what_was_said_in_the_gap_is_stepped_first_when_the_encoder_is_back_too() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(100), heard(500), heard(501))
    bench.work()
    assert answers(bench) == []
    bench.receive(heard(502), is_heard())
    assert answers(bench) == [Resumed(A, Epoch(1), 100, 0)]
    bench.receive(heard(600))
    bench.work()
    assert [step[A] for step in engine.steps_run] == [500, 501, 502, 600]


def test_of_a_long_gap_only_the_end_is_heard() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(5), *map(heard, range(GAP_FRAMES + 10)), is_heard())
    bench.work()
    assert [step[A] for step in engine.steps_run] == list(range(10, GAP_FRAMES + 10))


@pytest.mark.parametrize("frames_a_step", [1, 2])
def test_what_is_said_while_the_gap_is_stepped_is_heard_too_but_not_for_long(frames_a_step: int) -> None:
    """With one frame a step the engine never catches up: the newest frame goes on when enough were queued."""
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(5), *map(heard, range(GAP_FRAMES)), is_heard())
    while not answers(bench):
        bench.sent += bench.stage.work()
    steps = 3 * GAP_FRAMES
    for number in range(steps):
        bench.sent += bench.stage.work()
        if number % frames_a_step == 0:
            bench.receive(heard(GAP_FRAMES + number // frames_a_step))
    bench.work()
    read = [step[A] for step in engine.steps_run]
    if frames_a_step == 2:
        assert read == list(range(GAP_FRAMES + (steps + 1) // 2)), "no word was lost"
        return
    assert read[: 2 * GAP_FRAMES] == list(range(2 * GAP_FRAMES))
    assert read[2 * GAP_FRAMES :] == list(range(GAP_FRAMES + steps - len(read[2 * GAP_FRAMES :]), GAP_FRAMES + steps))


def test_what_the_encoder_has_kept_queues_behind_the_gap_although_it_comes_at_once() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(5), *map(heard, range(GAP_FRAMES)), is_heard())
    while not answers(bench):
        bench.sent += bench.stage.work()
    bench.receive(*map(heard, range(GAP_FRAMES, 2 * GAP_FRAMES)))
    bench.work()
    assert [step[A] for step in engine.steps_run] == list(range(2 * GAP_FRAMES))


@pytest.mark.parametrize("step_s", [0.005, 0.030, 0.050])
def test_live_calls_are_stepped_in_time_between_chunks_that_fit(step_s: float) -> None:
    bench = Bench(engine := Rebuilder(step_s=step_s))
    bench.receive(opened(A))
    bench.talk(range(5), (A,))
    bench.receive(comes_back(400, B), is_heard(B))
    late_s = bench.talk(range(200), (A,))
    assert answers(bench) == [Resumed(B, Epoch(1), 400, 0)]
    assert max(late_s) == pytest.approx(0)
    assert engine.prefilled[B] == list(range(1_000, 1_400))


def test_where_steps_leave_no_time_a_call_still_comes_back_within_its_budget() -> None:
    """At the cost of live calls, whose steps come late: no more than a frame's time is taken at once."""
    bench = Bench(Rebuilder(step_s=0.075))
    bench.receive(opened(A))
    bench.talk(range(5), (A,))
    began_s = bench.engine.now
    bench.receive(comes_back(1_000, B, budget_s=10.0), is_heard(B))
    while not answers(bench):
        late_s = bench.talk(range(1), (A,))
    (back,) = answers(bench)
    assert isinstance(back, Resumed)
    assert (back.steps + back.left_out, back.left_out < 1_000 - CONTEXT) == (1_000, True)
    assert bench.engine.now - began_s < 10.0
    assert max(bench.engine.chunks) <= 32
    assert max(late_s) < FRAME_S


def test_where_steps_are_too_slow_for_the_live_calls_another_still_comes_back_within_its_budget() -> None:
    bench = Bench(Rebuilder(step_s=0.1))
    bench.receive(opened(A), comes_back(1_000, B, budget_s=10.0), is_heard(B))
    began_s = bench.engine.now
    while not answers(bench):
        bench.receive(heard(1))
        bench.sent += bench.stage.work()
    assert isinstance(answers(bench)[0], Resumed)
    assert bench.engine.now - began_s < 10.0


@pytest.mark.parametrize("calls", [1, 2])
def test_first_steps_are_left_out_when_the_time_is_short_but_never_the_context(calls: int) -> None:
    bench = Bench(engine := Rebuilder())
    began_s, slots = engine.now, (A, B)[:calls]
    bench.receive(*(comes_back(5_000, slot, budget_s=4.0) for slot in slots), *map(is_heard, slots))
    bench.work()
    assert engine.now - began_s < 4.0
    for slot in slots:
        kept = engine.prefilled[slot]
        assert kept == list(range(6_000 - len(kept), 6_000))
        assert engine.left_out[slot] == 5_000 - len(kept)
        assert len(kept) > 0.4 * 4.0 / calls * 128 / PASS_128_S
        assert Resumed(slot, Epoch(1), len(kept), 5_000 - len(kept)) in answers(bench)


def test_with_no_time_at_all_it_is_the_context() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(5_000, budget_s=0.0), is_heard())
    bench.work()
    assert answers(bench) == [Resumed(A, Epoch(1), CONTEXT, 4_900)]
    assert engine.prefilled[A][-1] == 5_999


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("end", ["close", "failed", "open", "resume"])
def test_a_call_that_ends_while_it_waits_leaves_its_slot_and_the_others_go_on(end: str, begun: bool) -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(1_000, A), comes_back(200, B), is_heard(A), is_heard(B))
    if begun:
        bench.sent += bench.stage.work()
        assert A in engine.steps
    ends: dict[str, Message] = {
        "close": closed(A),
        "failed": Failed(A, Epoch(1), Stage.ENCODE, "why"),
        "open": opened(A, epoch=2),
        "resume": comes_back(5, A, epoch=2),
    }
    bench.receive(ends[end], heard(1, A), is_heard(A, epoch=2))
    bench.work()
    new = {"open": [], "resume": [Resumed(A, Epoch(2), 5, 0)]}.get(end, [])
    passed = [ends[end]] if end == "failed" else []
    assert answers(bench) == [*passed, Resumed(B, Epoch(1), 200, 0), *new]
    assert (A in engine.steps) == (end in ("open", "resume"))
    bench.receive(heard(2, A, epoch=2), heard(3, B))
    bench.work()
    assert sorted(said(bench)) == ([(A, 2), (B, 3)] if end in ("open", "resume") else [(B, 3)])


def test_one_that_is_opened_meanwhile_is_served_at_once() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(1_000, A), is_heard(A))
    bench.sent += bench.stage.work()
    bench.receive(opened(B), heard(1, B))
    bench.sent += bench.stage.work()
    assert engine.steps_run == [{B: 1}]
    assert answers(bench) == []
    bench.talk(range(200), (B,))
    assert answers(bench) == [Resumed(A, Epoch(1), 1_000, 0)]


def test_a_call_waits_for_its_prompt_while_the_next_one_goes_first() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(100, A, prompt="ada"), comes_back(100, B), is_heard(A), is_heard(B))
    bench.work()
    assert answers(bench) == [Resumed(B, Epoch(1), 100, 0)]
    bench.receive(wanted("eve"), wanted("ada"))
    bench.work()
    assert [answer.slot for answer in answers(bench) if isinstance(answer, Resumed)] == [B, A]
    assert engine.begun_with == ["", "ada"]
    assert engine.prompts.keys[0] == "ada", "it is computed before others"


@pytest.mark.parametrize("refused", [False, True])
def test_a_call_whose_prompt_does_not_come_in_time_ends_and_no_other(refused: bool) -> None:
    bench = Bench(engine := Rebuilder())
    key = "bad" if refused else "unknown"
    if refused:
        bench.receive(wanted(key))
    bench.receive(comes_back(100, A, budget_s=8.0, prompt=key), comes_back(100, B), is_heard(A), is_heard(B))
    bench.work()
    assert answers(bench) == [Resumed(B, Epoch(1), 100, 0)]
    assert [type(answer) for answer in bench.answers()] == [PromptRefused] * refused
    waited_s = []
    while not isinstance(answers(bench)[-1], Failed):
        waited_s.append((bench.stage.due_s() or 0.0) - engine.now)
        engine.now += max(0.0, waited_s[-1])
        bench.sent += bench.stage.work()
        assert bench.progress.pop() == ("waiting for a prompt", 0, 0)
    assert max(waited_s) < Limits().busy_s / 2
    assert engine.now == 108.0
    assert answers(bench)[-1] == Failed(A, Epoch(1), Stage.STEP, "the prompt that the call began with is not here")
    assert bench.stage.due_s() is None
    bench.receive(opened(A, epoch=2), DropPrompt(key))
    assert list(engine.steps) == [B, A]


@pytest.mark.parametrize(("theirs", "goes_on"), [("", True), ("abc", True), ("def", False)])
def test_a_call_of_another_checkpoint_is_refused(theirs: str, goes_on: bool) -> None:
    bench = Bench(Rebuilder(), "abc")
    bench.receive(replace(comes_back(10), checkpoint=theirs), is_heard())
    bench.work()
    refused = Failed(A, Epoch(1), Stage.STEP, "the call began on another checkpoint")
    assert answers(bench) == [Resumed(A, Epoch(1), 10, 0) if goes_on else refused]


def test_an_error_in_one_prefill_ends_that_call_and_no_other() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(10, A, first=UNFORESEEN), comes_back(10, B), is_heard(A), is_heard(B))
    bench.work()
    failed, back = answers(bench)
    assert isinstance(failed, Failed)
    assert failed.internal
    assert back == Resumed(B, Epoch(1), 10, 0)
    assert list(engine.steps) == [B]


def test_what_was_to_be_said_is_gone_and_what_is_said_from_now_on_is_heard() -> None:
    bench = Bench(Rebuilder())
    bench.receive(opened(A), Say(A, Epoch(1), 1, "lost"), comes_back(5, A, epoch=2), is_heard(A, epoch=2))
    bench.receive(Say(A, Epoch(2), 2, "new"))
    bench.work()
    sentences = [message for message in bench.sent if isinstance(message, Said)]
    assert [(message.epoch, message.sentence) for message in sentences] == [(1, 1), (2, 2)]


def test_a_call_that_comes_back_is_a_reason_not_to_compute_a_prompt_for_another_at_once() -> None:
    bench = Bench(engine := Rebuilder())
    bench.receive(comes_back(1_000, A), wanted("ada"))
    bench.sent += bench.stage.work()
    bench.receive(cast(Message, opened(B)))
    assert engine.chunks == [128]
