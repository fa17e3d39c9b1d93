"""The pace of what a client sends, in virtual time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.opus import PACKET_SAMPLES
from app.server.remote.pacer import BURST_S, FILLED_BURST_S, LATE_S, MOST_QUEUED, PACKET_S, Pacer
from workers.messages import FRAME_S, SAMPLE_RATE_HZ


def sound(length_s: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(round(length_s * SAMPLE_RATE_HZ), dtype=np.float32)


@given(st.booleans(), st.booleans(), st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 5_000)), max_size=60))
def test_audio_is_never_sent_faster_than_real_time(live: bool, fills: bool, steps: list[tuple[float, int]]) -> None:
    pacer, now = Pacer(live, fills), 100.0
    burst_s = FILLED_BURST_S if fills else BURST_S
    sent: list[float] = []
    for wait_s, samples in steps:
        now += wait_s
        pacer.push(np.zeros(samples, np.float32))
        sent += [now] * len(pacer.pull(now))
    for (first, from_s), (last, to_s) in itertools.combinations(enumerate(sent), 2):
        audio_s = (last - first + 1) * PACKET_S
        assert audio_s <= to_s - from_s + burst_s + PACKET_S + 1e-9


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
    assert pacer.dropped == 3 * SAMPLE_RATE_HZ - PACKET_SAMPLES
    (packet,) = pacer.pull(100.0)
    assert packet[-1] == 3 * SAMPLE_RATE_HZ - 1


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


def sent_at(frames_s: list[float], end_s: float) -> tuple[Pacer, list[tuple[float, bool]]]:
    """Push a frame at each of these moments; return when each packet was sent, and whether it was silent."""
    pacer, sent = Pacer(live=True, fills=True), list[tuple[float, bool]]()
    pacer.start(0.0)
    left = list(frames_s)
    now = 0.0
    while now < end_s:
        now = min([pacer.get_timer(), *left[:1]])
        if left and now >= left[0]:
            left.pop(0)
            pacer.push(np.ones(2 * PACKET_SAMPLES, np.float32))
        sent += [(now, not packet.any()) for packet in pacer.pull(now)]
    return pacer, sent


def test_a_server_clocked_by_its_input_gets_silence_while_audio_is_missing() -> None:
    _, sent = sent_at([], 10.0)
    assert all(silent for _, silent in sent)
    assert sent[0][0] == pytest.approx(FRAME_S + LATE_S)
    assert np.diff([at for at, _ in sent]) == pytest.approx(PACKET_S)


@pytest.mark.parametrize("late_s", [0.0, 0.03, 0.079])
def test_a_frame_that_is_a_little_late_is_sent_at_once_and_so_are_the_next(late_s: float) -> None:
    frames = [0.05 + FRAME_S * number + (late_s if number == 7 else 0.0) for number in range(20)]
    pacer, sent = sent_at(frames, frames[-1])
    assert pacer.dropped == 0
    assert [at for at, silent in sent if not silent] == pytest.approx([at for at in frames for _ in range(2)])


@pytest.mark.parametrize("seed", range(6))
def test_audio_that_comes_after_silence_was_sent_for_it_keeps_no_later_audio_waiting(seed: int) -> None:
    late_s = np.where(np.arange(80) < 30, np.random.default_rng(seed).uniform(0, 0.15, 80), 0.0)
    frames = [float(at) for at in np.maximum.accumulate(np.arange(80) * FRAME_S + late_s)]
    _, sent = sent_at(frames, frames[-1] + PACKET_S)
    spoken = [at for at, silent in sent if not silent]
    assert spoken[-20:] == pytest.approx([at for at in frames[-10:] for _ in range(2)])


@pytest.mark.parametrize("gap_s", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("phase_s", [0.0, 0.03, 0.07])
def test_audio_after_a_gap_does_not_wait_behind_silence(gap_s: float, phase_s: float) -> None:
    before = [FRAME_S * number for number in range(10)]
    after = [before[-1] + gap_s + phase_s + FRAME_S * number for number in range(20)]
    pacer, sent = sent_at(before + after, after[-1])
    assert pacer.dropped == 0
    spoken = [at for at, silent in sent if not silent]
    assert spoken[-4:] == pytest.approx([at for at in after[-2:] for _ in range(2)])
    assert len(sent) * PACKET_S <= after[-1] + FILLED_BURST_S + PACKET_S
