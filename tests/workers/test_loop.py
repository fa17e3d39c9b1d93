import selectors
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from workers.link import BACKLOG, Link, LinkClosed, pair
from workers.loop import ControlClosed, WorkerLoop
from workers.messages import (
    Attach,
    Close,
    Codes,
    Direction,
    Epoch,
    Open,
    Ping,
    PipelineMessage,
    Pong,
    Slot,
    Stage,
    WorkerConfig,
)

CONFIG = WorkerConfig(Stage.STEP, 0, 1, 2, 4, "loopback", "loopback", "", None, Path(), 0, 60.0)


def opened(slot: int) -> Open:
    return Open(Slot(slot), Epoch(1))


def closed(slot: int) -> Close:
    return Close(Slot(slot), Epoch(1))


class Conveyor:
    """Passes what is no audio on at once; a unit of work passes on the oldest audio."""

    def __init__(self) -> None:
        self.belt: list[PipelineMessage] = []

    @property
    def busy(self) -> bool:
        return bool(self.belt)

    def due_s(self) -> float | None:
        return 0.0 if self.busy else None

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        if not isinstance(message, Codes):
            return [message]
        self.belt.append(message)
        return []

    def work(self) -> list[PipelineMessage]:
        return [self.belt.pop(0)]


class ControlLast(selectors.DefaultSelector):
    """Tells of the links first and of the control link last, as no kernel promises not to."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return sorted(super().select(timeout), key=lambda ready: -ready[0].fd)


class Bench:
    """A loop with all its other ends in our hands: turn by turn, in one thread."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self.supervisor, control = map(Link, pair())
        self.control = control
        self.loop = WorkerLoop(CONFIG, control, Conveyor(), _selector=selector or selectors.DefaultSelector())
        self.loop._selector.register(control, selectors.EVENT_READ, self.loop._read_control)
        self.others: list[Link] = []

    def attach(self, direction: Direction, index: int = 0) -> Link:
        ours, theirs = pair()
        with theirs:
            self.supervisor.send(Attach(direction, index), theirs.fileno())
        self.others.append(Link(ours))
        return self.others[-1]

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop._turn()

    def turn_if_due(self) -> None:
        """Turn unless that would be to wait."""
        if self.loop._selector.select(0):
            self.turn()

    def close(self) -> None:
        links = [*self.loop._upstream.values(), *self.loop._downstream.values(), *self.others]
        for link in (self.supervisor, self.control, *links):
            link.close()
        self.loop._selector.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def heard(link: Link) -> list[object]:
    try:
        return link.receive()
    except LinkClosed:
        return ["the end"]


def test_a_ping_is_answered(bench: Bench) -> None:
    bench.supervisor.send(Ping(7))
    bench.turn()
    (pong,) = bench.supervisor.receive()
    assert isinstance(pong, Pong)
    assert pong.number == 7


def test_what_comes_in_on_one_side_goes_out_on_the_other(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    upstream.send(opened(0))
    upstream.send(closed(0))
    bench.turn()
    assert downstream.receive() == [opened(0), closed(0)]


def test_every_slot_goes_to_its_neighbour(bench: Bench) -> None:
    upstream = bench.attach(Direction.UPSTREAM)
    neighbours = [bench.attach(Direction.DOWNSTREAM, index) for index in range(2)]
    bench.turn(3)
    for slot in range(4):
        upstream.send(opened(slot))
    bench.turn()
    assert [neighbour.receive() for neighbour in neighbours] == [[opened(0), opened(2)], [opened(1), opened(3)]]


def test_whatever_has_arrived_is_taken_in_between_two_units_of_work(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    audio = [Codes(Slot(0), Epoch(1), seq, None) for seq in range(3)]
    for message in audio:
        upstream.send(message)
    bench.turn()
    upstream.send(closed(0))
    bench.turn()
    assert downstream.receive() == [audio[0], closed(0), audio[1]]
    bench.turn()
    assert downstream.receive() == [audio[2]]


def test_without_a_neighbour_messages_are_lost_and_the_loop_goes_on(bench: Bench) -> None:
    upstream = bench.attach(Direction.UPSTREAM)
    bench.turn()
    upstream.send(opened(0))
    bench.turn()
    downstream = bench.attach(Direction.DOWNSTREAM)
    bench.turn()
    upstream.send(closed(0))
    bench.turn()
    assert downstream.receive() == [closed(0)]


@pytest.mark.parametrize("direction", Direction)
def test_a_new_neighbour_takes_the_place_of_the_old_one(bench: Bench, direction: Direction) -> None:
    old = bench.attach(direction)
    other = bench.attach(Direction.UPSTREAM if direction is Direction.DOWNSTREAM else Direction.DOWNSTREAM)
    new = bench.attach(direction)
    bench.turn(3)
    source, target = (new, other) if direction is Direction.UPSTREAM else (other, new)
    source.send(opened(0))
    bench.turn()
    assert target.receive() == [opened(0)]
    assert heard(old) == ["the end"]


def test_a_neighbour_upstream_that_dies_is_forgotten(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    upstream.send(opened(0))
    upstream.close()
    bench.turn(2)
    assert downstream.receive() == [opened(0)]
    assert bench.loop._upstream == {}


def test_a_neighbour_downstream_that_dies_is_forgotten(bench: Bench) -> None:
    upstream = bench.attach(Direction.UPSTREAM)
    neighbours = [bench.attach(Direction.DOWNSTREAM, index) for index in range(2)]
    bench.turn(3)
    neighbours[0].close()
    for slot in range(4):
        upstream.send(opened(slot))
    bench.turn()
    assert neighbours[1].receive() == [opened(1), opened(3)]
    assert list(bench.loop._downstream) == [1]


def fill(bench: Bench, upstream: Link) -> int:
    """Send audio for slot 0 until the link to its neighbour is blocked; return how many messages that took."""
    sent = 0
    while not bench.loop._downstream[0].blocked:
        upstream.send(Codes(Slot(0), Epoch(1), sent, None, text="x" * 10_000))
        bench.turn()
        sent += 1
    return sent


def test_a_neighbour_that_does_not_read_gets_the_rest_when_it_does(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    sent = fill(bench, upstream)
    seqs: list[int] = []
    while len(seqs) < sent:
        seqs += [message.seq for message in downstream.receive() if isinstance(message, Codes)]
        bench.turn_if_due()
    assert seqs == list(range(sent))
    assert set(bench.loop._selector.get_map()) == {bench.control.fileno(), *(map(Link.fileno, upstreams(bench)))}


def upstreams(bench: Bench) -> list[Link]:
    return list(bench.loop._upstream.values())


def test_a_neighbour_that_dies_while_it_does_not_read_takes_nobody_along(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    other = bench.attach(Direction.DOWNSTREAM, 1)
    bench.turn(3)
    fill(bench, upstream)
    downstream.close()
    upstream.send(opened(0))  # in the same turn as the news that the neighbour's socket is broken
    upstream.send(opened(1))
    bench.turn_if_due()
    bench.turn_if_due()
    assert other.receive() == [opened(1)]
    assert list(bench.loop._downstream) == [1]


def test_a_neighbour_that_dies_and_is_back_within_one_turn_is_the_new_one(bench: Bench) -> None:
    old, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    new = bench.attach(Direction.UPSTREAM)
    old.close()
    bench.turn_if_due()
    bench.turn_if_due()
    new.send(opened(0))
    bench.turn()
    assert downstream.receive() == [opened(0)]


def test_links_are_made_before_anything_that_comes_over_them_is_passed_on() -> None:
    bench = Bench(ControlLast())
    upstream = bench.attach(Direction.UPSTREAM)
    bench.turn()
    downstream = bench.attach(Direction.DOWNSTREAM)
    upstream.send(opened(0))
    bench.turn()
    assert downstream.receive() == [opened(0)]
    bench.close()


def test_the_end_of_the_control_link_is_the_end(bench: Bench) -> None:
    bench.supervisor.close()
    with pytest.raises(ControlClosed):
        bench.turn()


def test_a_message_that_is_for_nobody_is_a_mistake_of_ours(bench: Bench) -> None:
    bench.supervisor.send(replace(CONFIG))
    with pytest.raises(TypeError, match="no message for a running worker"):
        bench.turn()


def test_a_loop_runs_until_its_control_link_closes() -> None:
    supervisor, control = map(Link, pair())
    worker = threading.Thread(target=WorkerLoop(CONFIG, control, Conveyor()).run, daemon=True)
    worker.start()
    supervisor.close()
    worker.join(timeout=10)
    assert not worker.is_alive()
    control.close()


def test_the_answer_to_a_ping_says_how_much_work_there_was(bench: Bench) -> None:
    upstream = bench.attach(Direction.UPSTREAM)
    bench.turn()
    for seq in range(3):
        upstream.send(Codes(Slot(0), Epoch(1), seq, None))
    bench.turn(3)
    bench.supervisor.send(Ping(1))
    bench.turn_if_due()
    (pong,) = bench.supervisor.receive()
    assert isinstance(pong, Pong)
    assert pong.vitals is not None
    assert (pong.vitals.work_s.count, pong.vitals.rows.total, pong.vitals.dropped) == (3, 3, 0)
    assert pong.vitals.memory_bytes > 1 << 20
    assert pong.vitals.cpu_s > 0


def test_frames_that_found_no_room_are_counted_even_when_the_neighbour_is_gone(bench: Bench) -> None:
    upstream, downstream = bench.attach(Direction.UPSTREAM), bench.attach(Direction.DOWNSTREAM)
    bench.turn(2)
    fill(bench, upstream)
    for seq in range(2 * BACKLOG):
        upstream.send(Codes(Slot(0), Epoch(1), seq, None))
        bench.turn()
    dropped = bench.loop._read_vitals().dropped
    assert dropped > 0
    downstream.close()
    upstream.send(opened(0))
    bench.turn_if_due()
    assert 0 not in bench.loop._downstream
    assert bench.loop._read_vitals().dropped >= dropped
