"""The pace of what a client sends, in virtual time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.opus import PACKET_SAMPLES
from app.audio.playback_buffer import RATE_HZ
from app.cli.talk.pacer import BURST_S, MOST_QUEUED, PACKET_S, Pacer


def sound(length_s: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(round(length_s * RATE_HZ), dtype=np.float32)


@given(st.booleans(), st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 5_000)), max_size=60))
def test_audio_is_never_sent_faster_than_real_time(live: bool, steps: list[tuple[float, int]]) -> None:
    pacer, now = Pacer(live), 100.0
    sent: list[float] = []
    for wait_s, samples in steps:
        now += wait_s
        pacer.push(np.zeros(samples, np.float32))
        sent += [now] * len(pacer.pull(now))
    for (first, from_s), (last, to_s) in itertools.combinations(enumerate(sent), 2):
        audio_s = (last - first + 1) * PACKET_S
        assert audio_s <= to_s - from_s + BURST_S + PACKET_S + 1e-9


def test_a_microphone_with_jitter_is_sent_whole() -> None:
    pacer, sent = Pacer(live=True), []
    for block in range(500):
        pacer.push(np.full(480, block, np.float32))
        sent += pacer.pull(block * 0.02 + (0.0, 0.013, 0.005, 0.019)[block % 4])
    assert pacer.dropped == 0
    assert len(sent) >= 248


def test_live_sound_that_was_held_up_is_dropped_the_oldest_first() -> None:
    pacer = Pacer(live=True)
    pacer.push(sound(3.0))
    assert pacer.dropped == 3 * RATE_HZ - PACKET_SAMPLES
    (packet,) = pacer.pull(100.0)
    assert packet[-1] == 3 * RATE_HZ - 1


def test_live_sound_waits_no_longer_than_120_ms() -> None:
    pacer = Pacer(live=True)
    pacer.push(np.zeros(MOST_QUEUED, np.float32))
    assert pacer.dropped == 0
    pacer.push(np.zeros(1, np.float32))
    assert pacer.dropped == MOST_QUEUED + 1 - PACKET_SAMPLES


def test_a_file_is_sent_whole_at_the_pace_of_speech() -> None:
    pacer, said = Pacer(live=False), sound(1.0)
    pacer.push(said)
    sent = [packet for tick in range(101) for packet in pacer.pull(tick * 0.01)]
    np.testing.assert_array_equal(np.concatenate(sent), said)


@pytest.mark.parametrize("stall_s", [0.2, 1.0, 5.0])
def test_a_stall_is_not_made_up_for(stall_s: float) -> None:
    pacer = Pacer(live=False)
    pacer.push(sound(20.0))
    assert len(pacer.pull(0.0)) == 2
    assert len(pacer.pull(stall_s)) == 2
    assert pacer.pull(stall_s + 0.03) == []
