import os
from collections.abc import Iterator

import pytest

from tests.workers.config import LOOPBACK
from workers.control_messages import Ping, Progress, Relink, WorkerVitals
from workers.link import BACKLOG, Link, pair, serialize
from workers.loop import StageMessage, WorkerLoop
from workers.messages import (
    Close,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Message,
    Open,
    PromptMessage,
    PromptRefused,
    Said,
    Slot,
    SpeechEnded,
    Stage,
)

POISON = Slot(13)


def opened(slot: int) -> Open:
    return Open(Slot(slot), Epoch(1))


def audio(seq: int, text: str = "") -> Codes:
    return Codes(Slot(0), Epoch(1), seq, None, text)


CLOSED = Close(Slot(0), Epoch(1))
ENDED = SpeechEnded(Slot(7), Epoch(1))
"""What `Conveyor` has for the transcriber when a message of this slot comes."""
SAID = Said(Slot(0), Epoch(1), 1, whole=True)
LAST = audio(99, " word")


class Conveyor:
    """Passes what is no audio on at once; a unit of work passes on the oldest audio, behind `LAST` also `SAID`."""

    def __init__(self) -> None:
        self.belt: list[Message] = []

    def due_s(self) -> float | None:
        return 0.0 if self.belt else None

    def receive(self, message: Message | Relink) -> list[StageMessage]:
        if isinstance(message, Relink):
            self.belt.clear()
            return []
        if isinstance(message, PromptMessage):
            raise KeyError(message.key)
        if message.slot == POISON:
            raise KeyError(message.slot)
        if not isinstance(message, Codes):
            return [message, *([ENDED] if message.slot == ENDED.slot else [])]
        self.belt.append(message)
        return []

    def work(self) -> list[Message]:
        frame = self.belt.pop(0)
        return [frame, SAID] if frame == LAST else [frame]


class Bench:
    """A loop with all its other ends in our hands: turn by turn, in one thread."""

    def __init__(self) -> None:
        self.ends = [Link(end) for _ in range(5) for end in pair()]
        self.supervisor, control, self.upstream, upstream, self.downstream, downstream, *self.next = self.ends
        self.loop = WorkerLoop(Stage.STEP, control, upstream, downstream, Conveyor(), spares=self.next[1::2])

    def relink(self) -> None:
        """Lose both neighbours; the next ones are there."""
        for link in (self.upstream, self.downstream):
            link.close()
        self.upstream, _, self.downstream, _ = self.next
        self.supervisor.send(Relink())
        self.run_once()

    def run_once(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.run_once(longest_s=0)

    def send(self, *messages: Message) -> None:
        """Send to the loop and let it read what has come."""
        for message in messages:
            self.upstream.send(message)
        self.run_once()

    def came(self) -> list[Message]:
        """What has come out of the loop."""
        return self.downstream.receive()

    def vitals(self) -> WorkerVitals:
        self.supervisor.send(Ping())
        self.run_once()
        (vitals,) = self.supervisor.receive()
        assert isinstance(vitals, WorkerVitals)
        return vitals

    def fill(self) -> int:
        """Send audio until the way on is blocked and drops; return how many messages that took."""
        sent = 0
        while not self.vitals().dropped:
            self.send(*(audio(sent + n, "x" * 10_000) for n in range(8)))
            self.run_once(8)
            sent += 8
        return sent


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for link in bench.ends:
        link.close()


def test_whatever_has_arrived_is_read_between_two_units_of_work(bench: Bench) -> None:
    frames = [audio(seq) for seq in range(3)]
    bench.send(*frames)
    bench.send(CLOSED)
    assert bench.came() == [frames[0], CLOSED, frames[1]]
    bench.run_once()
    assert bench.came() == [frames[2]]
    vitals = bench.vitals()
    assert (vitals.work_s.count, vitals.rows.total, vitals.dropped) == (3, 3, 0)
    assert vitals.memory_bytes > 1 << 20
    assert vitals.cpu_s > 0


def test_the_rest_of_a_message_is_read_before_the_next_unit_of_work_unless_it_does_not_come(bench: Bench) -> None:
    bench.loop.rest_within_s, part, rest = 60.0, serialize(CLOSED)[:7], serialize(CLOSED)[7:]
    bench.upstream.send(audio(0))
    os.write(bench.upstream.fileno(), part)
    bench.run_once(2)
    assert bench.came() == []
    os.write(bench.upstream.fileno(), rest)
    bench.run_once()
    assert bench.came() == [CLOSED, audio(0)]
    bench.loop.rest_within_s = 0.0
    os.write(bench.upstream.fileno(), serialize(audio(1)) + part)
    bench.run_once()
    assert bench.came() == [audio(1)]


def test_what_is_for_the_transcriber_goes_to_the_supervisor(bench: Bench) -> None:
    bench.send(opened(7))
    assert bench.came() == [opened(7)]
    assert bench.supervisor.receive() == [ENDED]


def test_the_rows_of_a_unit_of_work_are_its_frames(bench: Bench) -> None:
    bench.send(LAST)
    assert bench.came() == [LAST, SAID]
    vitals = bench.vitals()
    assert (vitals.rows.count, vitals.rows.total) == (1, 1)


def test_an_exception_ends_the_call_of_its_message_and_touches_no_other(bench: Bench) -> None:
    bench.send(opened(0), opened(POISON), opened(1), audio(0))
    failed = Failed(POISON, Epoch(1), Stage.STEP, "KeyError(13)", internal=True)
    assert bench.came() == [opened(0), failed, opened(1), audio(0)]


def test_an_exception_about_a_prompt_refuses_it(bench: Bench) -> None:
    bench.send(DropPrompt("ada"), opened(0))
    assert bench.came() == [PromptRefused("ada", "KeyError('ada')"), opened(0)]


def test_a_neighbour_that_does_not_read_gets_the_rest_when_it_does(bench: Bench) -> None:
    sent = bench.fill()
    seqs: list[int] = []
    while not seqs or seqs[-1] < sent - 1:
        seqs += [message.seq for message in bench.came() if isinstance(message, Codes)]
        bench.run_once()
    assert seqs == sorted(seqs)
    assert seqs[-BACKLOG + 1 :] == list(range(sent - BACKLOG + 1, sent)), "the newest ones are kept, in order"
    bench.send(CLOSED)
    assert bench.came() == [CLOSED]


@pytest.mark.parametrize("blocked", [False, True])
def test_what_a_dead_neighbour_should_have_got_is_lost_and_the_loop_goes_on(bench: Bench, blocked: bool) -> None:
    if blocked:
        bench.fill()
    bench.downstream.close()
    bench.send(opened(0), audio(0), CLOSED)
    bench.run_once(3)
    bench.vitals()


@pytest.mark.parametrize("blocked", [False, True])
def test_new_neighbours_get_nothing_of_before_and_lose_nothing_of_theirs(bench: Bench, blocked: bool) -> None:
    dropped = bench.fill() and bench.vitals().dropped if blocked else 0
    os.write(bench.upstream.fileno(), serialize(CLOSED)[:7])
    bench.run_once()
    bench.relink()
    assert bench.came() == []
    bench.send(opened(0), audio(0), CLOSED)
    bench.run_once(3)
    assert bench.came() == [opened(0), CLOSED, audio(0)]
    assert bench.vitals().dropped == dropped


def test_the_last_message_of_a_neighbour_is_read_and_no_other_waited_for(bench: Bench) -> None:
    bench.upstream.send(opened(0))
    bench.upstream.close()
    bench.run_once(3)
    assert bench.came() == [opened(0)]
    bench.vitals()


def test_a_loop_runs_until_its_control_link_closes_even_while_a_ping_is_answered(bench: Bench) -> None:
    bench.supervisor.send(Ping())
    bench.supervisor.close()
    bench.loop.run()


def test_a_stage_may_report_progress_when_the_control_link_has_just_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> list[Message]:
        bench.supervisor.close()
        bench.loop.control.send(Progress("replaying calls", 1, 2))
        return []

    monkeypatch.setattr(bench.loop.stage, "work", work)
    bench.upstream.send(audio(0))
    bench.loop.run()


def test_a_control_message_that_is_no_ping_is_our_mistake(bench: Bench) -> None:
    bench.supervisor.send(LOOPBACK)
    with pytest.raises(TypeError, match="no message for a running worker"):
        bench.run_once()
