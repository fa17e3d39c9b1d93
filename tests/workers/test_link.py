import socket
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.link import BACKLOG, Link, LinkClosed, pair
from workers.messages import (
    Close,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    PipelineMessage,
    Slot,
    Speech,
    SpeechEnded,
    Stage,
)

MANY_READS = 2_000


class Pair:
    """A link and its other end; the sockets of a `narrow` one hold very little, so that every message is cut up."""

    def __init__(self, narrow: bool = False) -> None:
        ends = socket.socketpair() if narrow else pair()
        for end in ends if narrow else ():
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.left, self.right = map(Link, ends)

    def close(self) -> None:
        self.left.close()
        self.right.close()


@pytest.fixture
def narrow() -> Iterator[Pair]:
    with closing(Pair(narrow=True)) as links:
        yield links


def frame(seq: int, slot: int = 0) -> Frame:
    return Frame(Slot(slot), Epoch(1), seq, np.zeros(1_920, np.float32))


def everything(links: Pair) -> list[object]:
    """Flush the left end and read the right one until nothing is left."""
    messages: list[object] = []
    for _ in range(MANY_READS):
        links.left.flush()
        arrived = links.right.receive()
        messages += arrived
        if not arrived and not links.left.blocked:
            return messages
    raise AssertionError("the links never ran empty")


def test_messages_arrive_in_order_and_as_they_were_even_before_the_end() -> None:
    sent = [Open(Slot(1), Epoch(2), 3), Close(Slot(1), Epoch(2)), Failed(Slot(0), Epoch(1), Stage.DECODE, "why")]
    with closing(Pair()) as links:
        for message in sent:
            links.left.send(message)
        links.left.close()
        assert links.right.receive() == sent
        with pytest.raises(LinkClosed):
            links.right.receive()


@given(st.lists(st.binary(max_size=60_000), max_size=8))
@settings(deadline=None, max_examples=30)
def test_messages_of_any_size_come_through_a_socket_of_any_size(bodies: list[bytes]) -> None:
    with closing(Pair(narrow=True)) as links:
        for body in bodies:
            links.left.send(body)
        assert everything(links) == bodies


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


def test_the_oldest_audio_is_dropped_when_the_other_end_does_not_keep_up(narrow: Pair) -> None:
    assert not narrow.left.blocked
    for seq in range(200):
        narrow.left.send(frame(seq))
    assert narrow.left.blocked
    seqs = [message.seq for message in everything(narrow) if isinstance(message, Frame)]
    assert not narrow.left.blocked
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


@given(st.lists(MESSAGES, min_size=BACKLOG, max_size=2 * BACKLOG))
@settings(deadline=None, max_examples=15)  # an example is 64 messages and more
def test_only_audio_is_ever_dropped_and_the_rest_keeps_its_order(sent: list[PipelineMessage]) -> None:
    with closing(Pair(narrow=True)) as links:
        for message in sent:
            links.left.send(message)
        arrived = everything(links)
    assert [m for m in arrived if not isinstance(m, Frame | Codes)] == [
        m for m in sent if not isinstance(m, Frame | Codes)
    ]
    assert len(arrived) == len(sent) - links.left.dropped
    remaining: Iterator[object] = iter(sent)
    assert all(message in remaining for message in arrived), "what arrives keeps its order"


def test_speech_arrives_as_it_was_and_gives_way_like_other_audio(narrow: Pair) -> None:
    codes = np.arange(32, dtype=np.int32)
    for seq in range(3 * BACKLOG):
        narrow.left.send(Speech(Slot(2), Epoch(7), seq, codes))
    narrow.left.send(SpeechEnded(Slot(2), Epoch(7)))
    *came, end = everything(narrow)
    assert end == SpeechEnded(Slot(2), Epoch(7))
    assert narrow.left.dropped == 3 * BACKLOG - len(came) > 0
    newest = came[-1]
    assert isinstance(newest, Speech)
    assert (newest.slot, newest.epoch, newest.seq, newest.codes.tolist()) == (2, 7, 3 * BACKLOG - 1, codes.tolist())


def test_half_a_message_and_then_the_end_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    link = Link(theirs)
    ours.send(b"\x00\x00\x01\x00half")
    ours.close()
    assert link.receive() == []
    with pytest.raises(LinkClosed):
        link.receive()
    link.close()


def test_sending_and_flushing_to_a_closed_end_is_the_end(narrow: Pair) -> None:
    for seq in range(4):
        narrow.left.send(frame(seq))
    narrow.right.close()
    with pytest.raises(LinkClosed):
        narrow.left.flush()
    with pytest.raises(LinkClosed):
        narrow.left.send("last")
