"""The caller's frames that Moshi has not read, against a list of all that were spoken."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.calls.conversation import GAP_FRAMES
from app.calls.leg import SendFrame
from app.calls.suspension import UnreadFrames

PCM = np.zeros(1_920, np.float32)
FIRST = 25


def frames(first: int, count: int) -> list[SendFrame]:
    return [SendFrame(seq, PCM) for seq in range(first, first + count)]


def seqs(of: list[SendFrame]) -> list[int]:
    return [frame.seq for frame in of]


def test_what_the_lost_pipeline_had_not_read_and_what_came_since_is_the_gap() -> None:
    unread = UnreadFrames(FIRST)
    assert unread.add(sent := frames(FIRST, 5)) == sent
    assert seqs(unread.read(27)) == [25, 26, 27]
    unread.hold()
    assert unread.add(frames(30, 3)) == []
    assert seqs(unread.gap()) == [28, 29, 30, 31, 32]
    assert unread.add(frames(33, 2)) == []
    assert (seqs(unread.release()), unread.live_seq) == ([33, 34], 35)
    assert seqs(unread.read(34)) == [28, 29, 30, 31, 32, 33, 34]


def test_only_the_last_frames_of_a_long_gap_are_kept() -> None:
    unread = UnreadFrames(0)
    unread.hold()
    unread.add(frames(0, 100))
    assert seqs(unread.gap()) == [*range(100 - GAP_FRAMES, 100)]


def test_what_was_said_before_the_call_is_open_is_not_heard_and_the_answers_after_it_are() -> None:
    unread = UnreadFrames(FIRST)
    unread.hold()
    unread.add(frames(FIRST, 3))
    unread.discard()
    assert (unread.add(more := frames(28, 1)), unread.live_seq) == (more, 0)
    assert seqs(unread.read(28)) == [28]


DEEDS = st.lists(st.sampled_from(["speak", "speak", "speak", "read", "lose", "resume", "resumed"]), max_size=120)


@given(DEEDS, st.integers(1, 4))
def test_no_frame_is_sent_twice_to_one_pipeline_or_read_twice_and_gaps_have_no_hole(
    deeds: list[str], many: int
) -> None:
    unread, spoken, has = UnreadFrames(FIRST), FIRST, list[int]()  # what the pipeline has and has not answered
    read: list[int] = []
    held = attached = False
    for deed in deeds:
        sent: list[int] = []
        if deed == "speak":
            sent = seqs([*unread.add(frames(spoken, many))])
            spoken += many
            assert bool(sent) != held
        elif deed == "read" and has:
            read += seqs(unread.read(has[0]))
            has = has[1:]
        elif deed == "lose":
            unread.hold()
            held, attached, has = True, False, []
        elif deed == "resume" and held and not attached:
            sent, attached = seqs(unread.gap()), True
            assert sent == [*range(spoken - len(sent), spoken)]
            assert len(sent) <= GAP_FRAMES
            assert len(sent) == min(GAP_FRAMES, len(set(range(FIRST, spoken)) - set(read)), spoken - FIRST)
        elif deed == "resumed" and attached:
            sent, held, attached = seqs(unread.release()), False, False
            assert unread.live_seq == unread.next_seq == spoken
        has += sent
        assert has == sorted(set(has)), "in order, none twice"
        assert read == sorted(set(read))
        assert not set(read) & set(has)
