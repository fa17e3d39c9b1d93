import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.link import BACKLOG, Link, LinkClosed, pair
from workers.messages import Close, Codes, Epoch, Failed, Frame, Open, PipelineMessage, Slot, Stage

MANY_READS = 2_000


@dataclass
class Line:
    """A link, its other end, and the bare sockets beneath."""

    left: Link
    right: Link

    def close(self) -> None:
        self.left.close()
        self.right.close()


def small_line() -> Line:
    """A line whose sockets hold very little, so that every message is cut up."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return Line(*map(Link, ends))


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line(*map(Link, pair()))
    yield line
    line.close()


@pytest.fixture
def narrow() -> Iterator[Line]:
    line = small_line()
    yield line
    line.close()


def frame(seq: int, slot: int = 0) -> Frame:
    return Frame(Slot(slot), Epoch(1), seq, np.zeros(1_920, np.float32))


def everything(line: Line) -> list[object]:
    """Flush the left end and read the right one until nothing is left."""
    messages: list[object] = []
    for _ in range(MANY_READS):
        line.left.flush()
        arrived = line.right.receive()
        messages += arrived
        if not arrived and not line.left.blocked:
            return messages
    raise AssertionError("the line never ran empty")


def test_messages_arrive_in_order_and_as_they_were(line: Line) -> None:
    sent = [Open(Slot(1), Epoch(2), 3), Close(Slot(1), Epoch(2)), Failed(Slot(0), Epoch(1), Stage.DECODE, "why")]
    for message in sent:
        line.left.send(message)
    assert line.right.receive() == sent
    assert line.right.receive() == []


@given(st.lists(st.binary(max_size=60_000), max_size=8))
@settings(deadline=None, max_examples=30)
def test_messages_of_any_size_come_through_a_socket_of_any_size(bodies: list[bytes]) -> None:
    with closing(small_line()) as line:
        for body in bodies:
            line.left.send(body)
        assert everything(line) == bodies


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 400), max_size=60))
@settings(deadline=None, max_examples=60)
def test_bytes_may_come_in_pieces_of_any_size(bodies: list[bytes], sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with closing(Link(ours)) as left, closing(Link(theirs)) as right:
        for body in bodies:
            left.send(body)
        wire, arrived = theirs.recv(1 << 20) if bodies else b"", []
        for size in (*sizes, len(wire)):
            ours.send(wire[:size])
            wire = wire[size:]
            arrived += right.receive()
    assert arrived == bodies


def test_a_sender_is_told_when_something_waits(narrow: Line) -> None:
    assert not narrow.left.blocked
    for seq in range(8):
        narrow.left.send(frame(seq))
    assert narrow.left.blocked
    seqs = [message.seq for message in everything(narrow) if isinstance(message, Frame)]
    assert seqs == list(range(8))
    assert not narrow.left.blocked
    assert narrow.left.dropped == 0


def test_the_oldest_audio_is_dropped_when_the_other_end_does_not_keep_up(narrow: Line) -> None:
    for seq in range(200):
        narrow.left.send(frame(seq))
    seqs = [message.seq for message in everything(narrow) if isinstance(message, Frame)]
    assert narrow.left.dropped == 200 - len(seqs)
    assert seqs[0] == 0, "half a message on the wire must be finished"
    assert seqs[-BACKLOG + 1 :] == list(range(200 - BACKLOG + 1, 200)), "the newest ones are kept, in order"


SLOTS = st.integers(0, 3).map(Slot)
MESSAGES: st.SearchStrategy[PipelineMessage] = st.one_of(
    st.builds(Open, SLOTS, st.just(Epoch(1))),
    st.builds(Close, SLOTS, st.just(Epoch(1))),
    st.builds(Failed, SLOTS, st.just(Epoch(1)), st.just(Stage.STEP), st.just("because")),
    st.builds(Codes, SLOTS, st.just(Epoch(1)), st.integers(0, 999), st.just(None), st.just("x" * 3_000)),
    st.builds(Frame, SLOTS, st.just(Epoch(1)), st.integers(0, 999), st.just(None), st.just("x" * 8_000)),
)


@given(st.lists(MESSAGES, min_size=BACKLOG, max_size=3 * BACKLOG))
@settings(deadline=None, max_examples=30)
def test_only_audio_is_ever_dropped_and_the_rest_keeps_its_order(sent: list[PipelineMessage]) -> None:
    with closing(small_line()) as line:
        for message in sent:
            line.left.send(message)
        arrived = everything(line)
    assert [m for m in arrived if not isinstance(m, Frame | Codes)] == [
        m for m in sent if not isinstance(m, Frame | Codes)
    ]
    assert len(arrived) == len(sent) - line.left.dropped
    remaining: Iterator[object] = iter(sent)
    assert all(message in remaining for message in arrived), "what arrives keeps its order"


def test_what_was_said_before_the_end_is_still_heard(line: Line) -> None:
    line.left.send("last words")
    line.left.close()
    assert line.right.receive() == ["last words"]
    with pytest.raises(LinkClosed):
        line.right.receive()


def test_half_a_message_and_then_the_end_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    link = Link(theirs)
    ours.send(b"\x00\x00\x01\x00half")
    ours.close()
    assert link.receive() == []
    with pytest.raises(LinkClosed):
        link.receive()
    link.close()


def test_sending_and_flushing_to_a_closed_end_is_the_end(narrow: Line) -> None:
    for seq in range(4):
        narrow.left.send(frame(seq))
    narrow.right.close()
    with pytest.raises(LinkClosed):
        narrow.left.flush()
    with pytest.raises(LinkClosed):
        narrow.left.send("last")
