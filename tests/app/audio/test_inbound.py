import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.audio import mulaw
from app.audio.inbound import FRAME_SAMPLES_8K, MAX_GAP_S, Inbound
from app.audio.resample import Interpolator

PACKET = 160
PACKET_MS = 20
SECOND = 8_000


def voice(samples: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, samples, np.uint8).tobytes()


def silence(samples: int) -> bytes:
    return bytes([mulaw.SILENCE]) * samples


def frames_of(line: bytes) -> list[NDArray[np.float32]]:
    """What a whole line of mu-law comes to, computed at once."""
    samples = mulaw.decode(line)
    if len(samples) < FRAME_SAMPLES_8K:
        return []
    wide = Interpolator().push((samples / 32_768).astype(np.float32))
    whole = len(samples) // FRAME_SAMPLES_8K
    return list(wide.reshape(-1)[: whole * 1_920].reshape(whole, 1_920))


def assert_same(frames: list[NDArray[np.float32]], line: bytes) -> None:
    expected = frames_of(line)
    assert [frame.shape for frame in frames] == [(1_920,)] * len(expected)
    for got, wanted in zip(frames, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def push(inbound: Inbound, *packets: tuple[int, bytes]) -> list[NDArray[np.float32]]:
    return [frame for timestamp_ms, payload in packets for frame in inbound.push(timestamp_ms, payload)]


def in_packets(line: bytes, first_ms: int = 0) -> list[tuple[int, bytes]]:
    return [(first_ms + start // 8, line[start : start + PACKET]) for start in range(0, len(line), PACKET)]


def test_four_packets_are_one_frame() -> None:
    inbound = Inbound()
    line = voice(640)
    assert [len(inbound.push(*packet)) for packet in in_packets(line)] == [0, 0, 0, 1]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=20))
@settings(deadline=None)
def test_packets_of_any_size_are_cut_into_the_same_frames(sizes: list[int]) -> None:
    line, inbound, frames, start = voice(sum(sizes)), Inbound(), [], 0
    for size in sizes:
        frames += inbound.push(start // 8, line[start : start + size])
        start += size
    assert_same(frames, line)
    assert inbound.gap_s == 0


@pytest.mark.parametrize("first_ms", [0, 20, 5_000])
def test_the_clock_begins_with_the_first_packet(first_ms: int) -> None:
    inbound, line = Inbound(), voice(1_280)
    assert_same(push(inbound, *in_packets(line, first_ms)), line)
    assert inbound.gap_s == 0


@given(packets=st.integers(1, 100))
@settings(deadline=None)
def test_a_gap_is_filled_with_exactly_as_much_silence(packets: int) -> None:
    inbound, before, after = Inbound(), voice(640, 1), voice(640 + PACKET, 2)
    came = [*in_packets(before), *in_packets(after, 80 + packets * PACKET_MS)]
    assert_same(push(inbound, *came), before + silence(packets * PACKET) + after)
    assert inbound.gap_s == pytest.approx(packets * 0.02)


def test_two_gaps_are_filled_each_for_itself() -> None:
    inbound, line = Inbound(), voice(480)
    came = [(0, line[:160]), (100, line[160:320]), (300, line[320:]), (320, voice(1_000, 3))]
    whole = line[:160] + silence(640) + line[160:320] + silence(1_440) + line[320:] + voice(1_000, 3)
    assert_same(push(inbound, *came), whole)
    assert inbound.gap_s == pytest.approx(0.26)


@pytest.mark.parametrize("early_ms", [1, 5, 10])
def test_a_clock_that_trembles_is_no_gap(early_ms: int) -> None:
    inbound, line = Inbound(), voice(4_800)
    trembling = [(ms + (early_ms if ms // PACKET_MS % 2 else 0), payload) for ms, payload in in_packets(line)]
    assert_same(push(inbound, *trembling), line)
    assert inbound.gap_s == 0


def test_of_a_long_gap_only_so_much_is_filled_and_the_clock_goes_on_from_there() -> None:
    inbound, before, after = Inbound(), voice(640, 1), voice(640, 2)
    filled = round(MAX_GAP_S * SECOND)
    came = [*in_packets(before), *in_packets(after, 3_600_000)]
    assert_same(push(inbound, *came), before + silence(filled) + after)
    assert inbound.gap_s == MAX_GAP_S


def test_a_jump_to_the_end_of_time_harms_nothing() -> None:
    inbound = Inbound()
    frames = push(inbound, (0, voice(640)), (10**12 - 1, voice(640)), (20, voice(640)), (10**12 - 1, voice(640)))
    assert len(frames) == 4 + round(MAX_GAP_S * SECOND) // 640


@pytest.mark.parametrize("second_ms", [0, 10, 19])
def test_packets_that_overlap_or_go_back_are_all_heard(second_ms: int) -> None:
    inbound, line = Inbound(), voice(1_280)
    packets = [(ms if index != 1 else second_ms, payload) for index, (ms, payload) in enumerate(in_packets(line))]
    assert_same(push(inbound, *packets), line)
    assert inbound.gap_s == 0


def test_what_came_too_much_is_taken_off_the_next_gap() -> None:
    inbound, line = Inbound(), voice(640 * 2)
    twice = [(0, line[:640]), (0, line[640:])]
    assert_same(push(inbound, *twice, (200, silence(640))), line + silence(320) + silence(640))
    assert inbound.gap_s == pytest.approx(0.04)


@given(skipped=st.integers(0, 2_000), size=st.integers(1, 700))
@settings(deadline=None)
def test_frames_begin_when_they_should_to_the_sample(skipped: int, size: int) -> None:
    inbound, line = Inbound(skipped / SECOND), voice(4_000)
    frames = push(inbound, *[(start // 8, line[start : start + size]) for start in range(0, len(line), size)])
    assert_same(frames, line[skipped:])


def test_a_gap_counts_as_time_before_the_start() -> None:
    inbound, line = Inbound(start_s=0.2), voice(160 + 1_280)
    came = [(0, line[:160]), *in_packets(line[160:], 160)]
    assert_same(push(inbound, *came), line[160 + 320 :])


def test_an_empty_packet_is_only_a_word_about_the_clock() -> None:
    inbound = Inbound()
    assert_same(push(inbound, (0, b""), (160, b"")), silence(1_280))
