import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.jitter_buffer import ALL_LATE_S, FRAME_SAMPLES_8K, MAX_JUMP_SAMPLES, WAIT_S, JitterBuffer
from app.audio.resample import Interpolator
from workers.messages import FRAME_S, FRAME_SAMPLES, Pcm

PACKET, PACKET_MS, PACKET_S = 160, 20, 0.02
NOW = 1_000.0
"""When the stream starts, on our clock."""

Arrival = tuple[float, int, bytes]
"""When a packet comes, in seconds after the start, its timestamp in ms, and what it holds."""
Completed = list[tuple[float, Pcm]]
"""Frames, and when each was given out, in seconds after the start."""


def voice(samples: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, samples, np.uint8).tobytes()


def packets(line: bytes, first_ms: int = 0, late_s: float = 0.0) -> list[Arrival]:
    """Packets that come when their last sample has been spoken, and `late_s` on the way."""
    starts = range(0, len(line), PACKET)
    stamps = [first_ms + start // 8 for start in starts]
    return [
        (ms / 1000 + PACKET_S + late_s, ms, line[start : start + PACKET])
        for ms, start in zip(stamps, starts, strict=True)
    ]


def run(buffer: JitterBuffer, arrivals: Iterable[Arrival], until_s: float = 0.0) -> Completed:
    """Let the packets come and the timer go off, each in its time; at least until the last packet."""
    done: Completed = []
    for at_s, stamp_ms, payload in arrivals:
        done += fire_timers(buffer, at_s)
        done += [(at_s, frame) for frame in buffer.push(stamp_ms, payload, NOW + at_s)]
    return done + fire_timers(buffer, until_s)


def fire_timers(buffer: JitterBuffer, until_s: float) -> Completed:
    done: Completed = []
    while (due_s := buffer.get_timer()) <= NOW + until_s:
        done += [(due_s - NOW, frame) for frame in buffer.handle_timer(due_s)]
    return done


def started(start_s: float = 0.0, phase_s: float | None = None) -> JitterBuffer:
    buffer = JitterBuffer(start_s)
    buffer.start(NOW, phase_s)
    return buffer


def assert_same(done: Completed, line: bytes) -> None:
    """The frames are those of a whole line of mu-law, computed at once."""
    wanted = heard(line)
    got = np.concatenate([frame for _, frame in done]) if done else np.zeros(0)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def heard(line: bytes) -> Pcm:
    """What the whole frames of a line come to."""
    samples = mulaw.decode(line[: len(line) // FRAME_SAMPLES_8K * FRAME_SAMPLES_8K])
    return Interpolator().push((samples / 32_768).astype(np.float32)) if len(samples) else np.zeros(0, np.float32)


def times(done: Completed) -> list[float]:
    return [at_s for at_s, _ in done]


# What comes on time.


def in_sizes(line: bytes, sizes: list[int]) -> list[Arrival]:
    """Packets of these sizes in samples, each as its last sample has been spoken."""
    ends = np.cumsum(sizes)
    return [
        (int(end) / 8_000, (int(end) - size) // 8, line[end - size : end])
        for end, size in zip(ends, sizes, strict=True)
    ]


@given(st.lists(st.integers(0, 310), min_size=1, max_size=40) | st.integers(1, 9).map(lambda many: 30 * [80 * many]))
@settings(deadline=None)
def test_packets_of_any_size_are_cut_into_the_same_frames(sizes: list[int]) -> None:
    line, buffer = voice(sum(sizes)), started()
    assert_same(run(buffer, in_sizes(line, sizes)), line)
    assert buffer.counts.total() == 0


@given(skipped=st.integers(0, 2_000), size=st.integers(1, 70).map(lambda ms: ms * 8))
@settings(deadline=None)
def test_frames_begin_when_they_should_give_or_take_half_a_packet(skipped: int, size: int) -> None:
    buffer, line = started(skipped / 8_000), voice(4_000)
    done = run(buffer, in_sizes(line, 4_000 // size * [size]))
    first = mulaw.decode(line)[max(0, skipped - 80) :] / 32_768
    sounds = np.lib.stride_tricks.sliding_window_view(first, 50)[:160]
    begins = max(0, skipped - 80) + int(np.argmin(np.abs(sounds - done[0][1][35 : 35 + 150 : 3]).sum(axis=1)))
    assert abs(begins - skipped) <= 80
    assert_same(done, line[begins : 4_000 // size * size])
    assert buffer.counts.total() == 0, "what comes before the beginning is not late"


@pytest.mark.parametrize("early_ms", [-10, -1, 1, 10])
def test_rounded_timestamps_are_no_gap(early_ms: int) -> None:
    line = voice(4_800)
    trembling = [(at_s, ms + (early_ms if ms // PACKET_MS % 2 else 0), sound) for at_s, ms, sound in packets(line)]
    buffer = started()
    assert_same(run(buffer, trembling), line)
    assert buffer.counts.total() == 0


# Silence.


@given(gap=st.integers(1, MAX_JUMP_SAMPLES // PACKET))
@example(MAX_JUMP_SAMPLES // PACKET)
@settings(deadline=None, max_examples=40)  # a frame's filter takes longer than all else
def test_a_gap_is_filled_with_exactly_as_much_silence(gap: int) -> None:
    before, after, buffer = voice(640, 1), voice(640 + PACKET, 2), started()
    done = run(buffer, [*packets(before), *packets(after, 80 + gap * PACKET_MS)])
    assert_same(done, before + mulaw.silence(gap * PACKET) + after)
    assert buffer.counts == {"ms_filled": gap * PACKET_MS}


def test_without_packets_there_is_a_silent_frame_each_80_ms() -> None:
    buffer = started()
    done = run(buffer, [], until_s=1.0)
    assert times(done) == pytest.approx([number * FRAME_S + WAIT_S[0] for number in range(1, 13)])
    assert_same(done, mulaw.silence(12 * 640))
    assert buffer.counts == {"ms_filled": 12 * 80}


def test_an_early_timer_fills_nothing_and_a_late_one_fills_all() -> None:
    buffer = started()
    due_s = buffer.get_timer()
    assert (JitterBuffer().get_timer(), JitterBuffer().handle_timer(NOW)) == (math.inf, []), "not before the start"
    assert buffer.handle_timer(due_s - 0.001) == []
    assert len(buffer.handle_timer(due_s + 0.16)) == 3
    assert buffer.get_timer() == pytest.approx(due_s + 0.24)


# What comes late.


@pytest.mark.parametrize("stall_s", [0.2, 0.6, 5.0])
def test_a_stall_becomes_silence_and_never_a_backlog(stall_s: float) -> None:
    line, end_s = voice(8_000 * 8), 1.0 + stall_s
    arrivals = [(end_s if 1.0 < at_s < end_s else at_s, ms, sound) for at_s, ms, sound in packets(line)]
    buffer = started()
    done = run(buffer, arrivals)
    assert len(done) == 100
    after = [(number, at_s) for number, at_s in enumerate(times(done), 1) if at_s > end_s]
    assert [at_s for _, at_s in after] == pytest.approx([number * FRAME_S for number, _ in after]), "on time again"
    assert buffer.counts["ms_filled"] == buffer.counts["ms_late"]
    assert stall_s * 1000 - 120 <= buffer.counts["ms_late"] <= stall_s * 1000
    assert buffer.counts["clock_resets"] == 0


def test_the_rest_of_a_packet_that_is_late_in_part_is_used() -> None:
    line = voice(1_280)
    buffer = started()
    done = run(buffer, [(0.13, 0, line[:1_000]), (0.16, 125, line[1_000:])])
    assert_same(done, mulaw.silence(640) + line[640:])
    assert buffer.counts == {"ms_filled": 80, "ms_late": 80}


def test_what_comes_after_a_frame_that_was_filled_up_in_part_is_heard_from_its_beginning() -> None:
    line, buffer = voice(3 * 640), started()
    came = [arrival for arrival in packets(line) if arrival[1] not in (40, 60)]
    held_up = [(max(at_s, 0.13) if ms >= 80 else at_s, ms, sound) for at_s, ms, sound in came]
    assert_same(run(buffer, held_up), line[:320] + mulaw.silence(320) + line[640:])
    assert buffer.counts == {"ms_filled": 40}


def test_the_wait_follows_the_lateness_of_the_line() -> None:
    buffer, line = started(), mulaw.silence(PACKET)
    buffer.push(0, line, NOW + 0.02)
    assert buffer.wait_s == WAIT_S[0]
    buffer.push(20, line, NOW + 0.04 + 0.03)
    assert buffer.wait_s == pytest.approx(0.075, abs=0.001)
    buffer.push(40, line, NOW + 0.06 + 3.0)
    assert buffer.wait_s == WAIT_S[1]
    for number in range(3, 3 + 4 * 3_000):
        buffer.push(number * PACKET_MS, line, NOW + 0.02 + number * PACKET_S)
    assert buffer.wait_s == WAIT_S[0]


@pytest.mark.parametrize("by_s", [0.06, 0.1, 0.12, 0.2, 1.0])
def test_a_line_whose_delay_has_grown_for_good_is_heard_again(by_s: float) -> None:
    line = voice(8_000 * 12)
    arrivals = [*packets(line[:16_000]), *packets(line[16_000:], 2_000, late_s=by_s)]
    buffer = started()
    done = run(buffer, arrivals)
    assert buffer.counts["clock_resets"] == (by_s > WAIT_S[1])
    assert buffer.counts["ms_late"] <= (ALL_LATE_S + 0.1) * 1_000
    last = np.concatenate([frame for _, frame in done[-12:]])
    assert np.abs(last).reshape(-1, 160).mean(axis=1).min() > 0.01, "no silence in it"


def test_late_packets_now_and_then_are_no_new_clock() -> None:
    """One that is late ends every time that he speaks; then nothing is sent for five seconds."""
    said, buffer, arrivals = voice(640), started(), list[Arrival]()
    for begins_ms in range(0, 30_000, 5_000):
        arrivals += [
            (begins_ms / 1_000 + at_s + (0.3 if ms == 60 else 0.0), begins_ms + ms, sound)
            for at_s, ms, sound in packets(said)
        ]
    run(buffer, arrivals)
    assert buffer.counts["ms_late"] == 6 * 20
    assert buffer.counts["clock_resets"] == 0


# A clock that jumps.


@pytest.mark.parametrize("jump_ms", [2_001, 60_000, 3_600_000])
def test_a_jump_forward_that_no_line_explains_is_a_new_clock(jump_ms: int) -> None:
    before, after, buffer = voice(640, 1), voice(1_280, 2), started()
    moved = [(0.08 + at_s, 80 + jump_ms + ms, sound) for at_s, ms, sound in packets(after)]
    assert_same(run(buffer, [*packets(before), *moved]), before + after)
    assert buffer.counts == {"clock_resets": 1}


@pytest.mark.parametrize("jump_s", [2.1, 11.0, 12.1, 60.0])
def test_after_a_long_greeting_a_jump_is_a_new_clock_as_well(jump_s: float) -> None:
    before, after, buffer = packets(bytes(PACKET) * 550), voice(1_280), started(start_s=10.0)
    moved = [(11.0 + at_s, 11_000 + round(jump_s * 1_000) + ms, sound) for at_s, ms, sound in packets(after)]
    done = run(buffer, [*before, *moved])
    assert len(done) == int(1.16 / FRAME_S)
    assert buffer.counts == {"clock_resets": 1}


@pytest.mark.parametrize("jump_s", [2.1, 9.0, 11.0, 30.0])
@pytest.mark.parametrize("at_s", [0.0, 1.0])
def test_a_jump_in_a_greeting_leaves_its_end_where_it_is(jump_s: float, at_s: float) -> None:
    line, buffer = packets(bytes(PACKET) * 600), started(start_s=10.0)
    ahead_ms = [round(jump_s * 1_000) if came_s > at_s else 0 for came_s, _, _ in line]
    jumped = [(came_s, ms + more, sound) for (came_s, ms, sound), more in zip(line, ahead_ms, strict=True)]
    done = run(buffer, jumped)
    assert times(done)[0] == pytest.approx(10.08, abs=PACKET_S + 1e-6)
    assert len(set(times(done))) == len(done) == pytest.approx(2.0 / FRAME_S, abs=1), "one at a time"
    assert buffer.counts == {"clock_resets": 1}


def test_a_clock_that_went_back_is_believed_after_a_while() -> None:
    before, after = voice(8_000 * 8, 1), voice(8_000 * 8, 2)
    set_anew = [(8.0 + at_s, ms, sound) for at_s, ms, sound in packets(after)]
    buffer = started()
    done = run(buffer, [*packets(before), *set_anew])
    assert buffer.counts["clock_resets"] == 1
    silent = [at_s for at_s, frame in done if not frame[100:-100].any()]
    assert 8.0 < silent[0] < 8.25
    assert 8.0 + ALL_LATE_S - 0.2 < silent[-1] < 8.0 + ALL_LATE_S + 0.25
    assert len(done) == pytest.approx(16 / FRAME_S, abs=2)


def test_a_single_old_timestamp_changes_nothing() -> None:
    line, buffer = voice(1_280), started()
    arrivals = [*packets(line[:640]), (0.081, 0, voice(160, 3)), *packets(line[640:], 80)]
    assert_same(run(buffer, arrivals), line)
    assert buffer.counts == {"ms_late": 20}


# Drift.


@pytest.mark.parametrize("ppm", [-800, 800])
def test_a_clock_that_drifts_is_followed(ppm: int) -> None:
    seconds = 300
    buffer, line, pace = started(), mulaw.silence(PACKET), 1 + ppm * 1e-6
    arrivals = [((number + 1) * PACKET_S * pace, number * PACKET_MS, line) for number in range(seconds * 50)]
    done = run(buffer, arrivals)
    assert times(done) == pytest.approx([number * FRAME_S * pace for number in range(1, len(done) + 1)])
    assert len(done) == seconds * 50 // 4
    assert buffer.counts.total() == 0


# Phase.


@given(
    st.integers(0, 32_000).map(lambda samples: samples / 8_000),
    st.integers(-10_000, 10_000).map(lambda samples: NOW + samples / 8_000),
    st.integers(0, 2_000).map(lambda samples: samples / 8_000),
)
@settings(deadline=None)
def test_frames_become_complete_when_those_of_other_calls_do(start_s: float, phase_s: float, late_s: float) -> None:
    alone, buffer = started(start_s), started(start_s, phase_s)
    first = voice(PACKET)
    for one in (alone, buffer):
        one.push(0, first, NOW + PACKET_S + late_s)
    before_s = (phase_s - buffer.complete_s(NOW) + 2e-5) % FRAME_S
    assert before_s < PACKET_S + 1e-6, "less than a packet before the other"
    early_s = alone.start_s - buffer.start_s
    assert -1e-9 <= early_s <= FRAME_S + 1e-9
    assert early_s / PACKET_S == pytest.approx(round(early_s / PACKET_S)), "frames end with a packet"


def test_a_call_in_phase_completes_its_frames_with_the_other_call() -> None:
    buffer, line = started(phase_s=NOW + 5.08), voice(1_280)
    done = run(buffer, packets(line))
    assert times(done) == pytest.approx([0.04, 0.12])
    assert buffer.start_s == -0.04
    assert_same(done, mulaw.silence(320) + line[:960])


def test_a_caller_who_speaks_later_is_brought_into_phase_then() -> None:
    buffer, said = started(phase_s=NOW + 7.06), voice(3 * 640)
    done = run(buffer, packets(said, first_ms=2_000))
    assert len(done) == pytest.approx(2.24 / FRAME_S, abs=1)
    assert (times(done)[-1] - 7.06 + 1e-6) % FRAME_S < 2e-6
    assert len(set(times(done))) >= len(done) - 1, "one at a time, but for the step into phase"


# Whatever the line does.


def level(number: int) -> int:
    """Packet `number` holds this byte all through, so that its place can be read off what is heard; none is silent."""
    return number % 100


@given(st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None)
def test_every_packet_is_heard_in_its_place_or_not_at_all(delays: list[tuple[float, bool]]) -> None:
    """Packets come in order, as late as they like, or never; frames come one each 80 ms of the caller's clock."""
    arrivals, last_s = list[Arrival](), 0.0
    for number, (late_s, lost) in enumerate(delays):
        last_s = max(last_s, (number + 1) * PACKET_S + late_s)
        if not lost:
            arrivals.append((last_s, number * PACKET_MS, bytes([level(number)]) * PACKET))
    buffer, until_s = started(), len(delays) * PACKET_S + 1.0
    done = run(buffer, arrivals, until_s)
    assert times(done) == sorted(times(done))
    for number, (at_s, frame) in enumerate(done, 1):
        assert number * FRAME_S - 1e-9 <= at_s <= number * FRAME_S + 0.4 + 1e-9
        assert frame.shape == (FRAME_SAMPLES,)
        assert frame.dtype == np.float32
        for place, sample in enumerate(frame.reshape(4, -1)[:, 300], 4 * (number - 1)):
            truth = mulaw.decode(bytes([level(place)]))[0] / 32_768
            assert sample == pytest.approx(truth, rel=0.01) or abs(sample) < 1e-3
    assert len(done) >= (until_s - 0.5) // FRAME_S
    assert buffer.counts["clock_resets"] == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 4), st.integers(0, 10**12 - 1) | st.integers(0, 5_000), st.integers(0, 2_000)),
        max_size=20,
    )
)
@settings(deadline=None)
def test_no_timestamps_of_the_peer_make_a_flood_of_frames(nonsense: list[tuple[float, int, int]]) -> None:
    buffer, now, said = started(), 0.0, 0
    arrivals = list[Arrival]()
    for wait_s, stamp_ms, size in nonsense:
        now, said = now + wait_s, said + size
        arrivals.append((now, stamp_ms, mulaw.silence(size)))
    done = run(buffer, arrivals, now)
    jumps = len(nonsense) * MAX_JUMP_SAMPLES
    assert len(done) <= (now * 8_000 + said + jumps) / FRAME_SAMPLES_8K
    assert all(frame.shape == (FRAME_SAMPLES,) for _, frame in done)
    due_s = buffer.get_timer()
    assert due_s > NOW + now, "nothing is overdue"
