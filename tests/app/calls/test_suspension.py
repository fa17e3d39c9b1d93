"""The caller's frames that Moshi has not read, against a list of all that were spoken."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.calls.leg import SendFrame
from app.calls.suspension import ON_TIME, UnreadFrames
from workers.messages import GAP_FRAMES

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
    assert unread.add(since := frames(33, 2)) == since
    assert seqs(unread.read(34)) == [28, 29, 30, 31, 32, 33, 34]


def late(unread: UnreadFrames, answered: range, behind: int) -> list[int]:
    """Return which answers are late when each comes so many frames after the one it answers."""
    found = []
    for seq in answered:
        unread.add(frames(unread.next_seq, max(0, seq + behind - unread.next_seq)))
        found += [seq] if unread.is_late(seq) else []
    return found


def test_answers_are_late_until_the_pipeline_has_caught_up() -> None:
    unread = UnreadFrames(0)
    assert late(unread, range(10), 9) == [], "nothing was lost"
    unread.hold()
    unread.add(frames(unread.next_seq, 10))
    first, live_seq = unread.gap()[0].seq, unread.next_seq
    unread.go_live()
    assert late(unread, range(first, live_seq), 1) == [*range(first, live_seq)], "they answer the gap"
    assert late(unread, range(live_seq, live_seq + 5), ON_TIME + 1) == [*range(live_seq, live_seq + 5)]
    assert late(unread, range(live_seq + 5, live_seq + 15), ON_TIME) == []
    assert late(unread, range(live_seq + 15, live_seq + 20), 9) == [], "it has caught up once"


def test_a_pipeline_that_never_catches_up_is_heard_in_the_end() -> None:
    unread = UnreadFrames(0)
    unread.hold()
    unread.go_live()
    assert late(unread, range(100), 9) == [*range(GAP_FRAMES - 9)], "once so much has been said since"


def test_what_was_said_before_the_call_is_open_is_not_heard_and_the_answers_after_it_are() -> None:
    unread = UnreadFrames(FIRST)
    unread.hold()
    unread.add(frames(FIRST, 3))
    unread.discard()
    assert (unread.add(more := frames(28, 1)), unread.is_late(28)) == (more, False)
    assert seqs(unread.read(28)) == [28]


DEEDS = st.lists(st.sampled_from(["speak", "speak", "speak", "read", "lose", "resume"]), max_size=120)


@given(DEEDS, st.integers(1, 4))
def test_no_frame_is_sent_twice_to_one_pipeline_or_read_twice_and_gaps_have_no_hole(
    deeds: list[str], many: int
) -> None:
    unread, spoken, has = UnreadFrames(FIRST), FIRST, list[int]()  # what the pipeline has and has not answered
    read: list[int] = []
    held = False
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
            held, has = True, []
        elif deed == "resume" and held:
            sent, held = seqs(unread.gap()), False
            assert sent == [*range(spoken - len(sent), spoken)]
            assert len(sent) <= GAP_FRAMES
            assert len(sent) == min(GAP_FRAMES, len(set(range(FIRST, spoken)) - set(read)), spoken - FIRST)
        has += sent
        assert has == sorted(set(has)), "in order, none twice"
        assert read == sorted(set(read))
        assert not set(read) & set(has)
