"""The playback buffer of a client, with the figures of Kyutai's browser client: no device, no clock."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.audio.playback_buffer import FRAME, MOST, MS, PlaybackBuffer
from workers.messages import Pcm

BLOCK = 10 * MS


def ones(milliseconds: int) -> Pcm:
    return np.ones(milliseconds * MS, np.float32)


def started() -> PlaybackBuffer:
    """Return a buffer that plays, 80 ms buffered, its fade-in over."""
    buffer = PlaybackBuffer()
    buffer.push(ones(90))
    for _ in range(2):
        buffer.pull(BLOCK)
    assert buffer.buffered == FRAME
    return buffer


def test_playback_starts_when_80_ms_are_there_and_10_ms_more_have_passed() -> None:
    buffer = PlaybackBuffer()
    buffer.push(ones(40))
    assert not buffer.pull(BLOCK).any()
    buffer.push(ones(40))
    assert not buffer.pull(BLOCK).any()
    assert buffer.pull(BLOCK).any()
    assert buffer.buffered == FRAME - BLOCK


def test_a_stream_at_the_pace_of_speech_is_played_whole_and_in_order() -> None:
    buffer, sent = PlaybackBuffer(), np.linspace(0.1, 0.9, 40 * FRAME, dtype=np.float32)
    played = []
    for start in range(0, len(sent), FRAME):
        buffer.push(sent[start : start + FRAME])
        played += [buffer.pull(BLOCK) for _ in range(8)]
    heard = np.trim_zeros(np.concatenate(played), "f")
    assert (buffer.underruns, buffer.dropped) == (0, 0)
    np.testing.assert_array_equal(heard[BLOCK:], sent[BLOCK : len(heard) + 1][-len(heard) + BLOCK :])


def test_what_is_too_much_is_dropped_the_oldest_first_and_the_ceiling_rises() -> None:
    buffer = PlaybackBuffer()
    buffer.push(np.arange(101 * MS, dtype=np.float32))
    assert buffer.buffered == 90 * MS
    assert buffer.dropped == 11 * MS
    buffer.pull(BLOCK)
    assert buffer.pull(BLOCK)[-1] == 21 * MS - 1, "the newest 90 ms were kept"
    buffer.push(ones(25))
    assert buffer.buffered == 105 * MS, "5 ms more than 100 are let be now"
    buffer.push(ones(1))
    assert buffer.buffered == 90 * MS


def test_the_ceiling_rises_up_to_80_ms_over_the_target() -> None:
    buffer = PlaybackBuffer()
    for _ in range(100):
        buffer.push(ones(1000))
    buffer.push(ones(80))
    assert buffer.buffered == buffer.target + MOST
    buffer.push(ones(1))
    assert buffer.buffered == buffer.target


def test_an_underrun_fades_out_refills_and_raises_the_target_by_5_ms() -> None:
    buffer = started()
    played = buffer.pull(100 * MS)
    assert played[0] == 1
    assert np.all(np.diff(played[: 80 * MS]) < 0)
    assert not played[80 * MS :].any()
    assert (buffer.underruns, buffer.target) == (1, 95 * MS)
    buffer.push(ones(40))
    assert not buffer.pull(BLOCK).any()
    buffer.push(ones(40))
    assert not buffer.pull(15 * MS).any()
    assert buffer.pull(BLOCK).any()


def test_the_target_rises_up_to_160_ms() -> None:
    buffer = PlaybackBuffer()
    for _ in range(100):
        buffer.push(ones(80))
        buffer.pull(MOST)
        buffer.pull(100 * MS)
    assert buffer.target == FRAME + MOST


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12_000)), max_size=60))
def test_nothing_is_lost_uncounted_and_latency_stays_bounded(steps: list[tuple[bool, int]]) -> None:
    buffer = PlaybackBuffer()
    pushed = pulled = 0
    for is_push, count in steps:
        before = buffer.buffered
        if is_push:
            buffer.push(np.ones(count, np.float32))
            pushed += count
        else:
            assert len(buffer.pull(count)) == count
            pulled += before - buffer.buffered
        assert 0 <= buffer.buffered <= FRAME + 2 * MOST
        assert pushed == pulled + buffer.dropped + buffer.buffered
