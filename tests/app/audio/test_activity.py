import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.activity import HANG_S, ActivityDetector
from app.simulator.conversation import talk
from app.simulator.wav import Samples

PACKET_S = 0.02
SILENCE = bytes([mulaw.SILENCE]) * 160


def noise(dbfs: float, seconds: float, seed: int = 1) -> list[bytes]:
    samples = np.random.default_rng(seed).normal(0, 32_768 * 10 ** (dbfs / 20), round(seconds * 8_000))
    payload = mulaw.encode(np.clip(samples, -32_000, 32_000).astype(np.int16))
    return [payload[at : at + 160] for at in range(0, len(payload), 160)]


def changes(
    packets: list[bytes], detector: ActivityDetector | None = None, from_s: float = 0.0
) -> list[tuple[float, bool]]:
    """When speech was found to begin (True) and to stop (False), packet after packet."""
    detector = detector or ActivityDetector()
    told = [
        (from_s + (at + 1) * PACKET_S, detector.add(packet, from_s + (at + 1) * PACKET_S))
        for at, packet in enumerate(packets)
    ]
    return [(at_s, begun) for at_s, begun in told if begun is not None]


def test_silence_is_no_speech() -> None:
    assert changes([SILENCE] * 500) == []


def test_speech_begins_when_it_has_lasted_and_stops_when_there_has_been_none() -> None:
    found = changes([*[SILENCE] * 50, *noise(-20, 1.0), *[SILENCE] * 50])
    assert [begun for _, begun in found] == [True, False]
    assert [at_s for at_s, _ in found] == pytest.approx([1.06, 2.0 + HANG_S], abs=PACKET_S + 1e-6)


def test_a_click_is_no_speech() -> None:
    assert changes([*[SILENCE] * 50, *noise(-10, 0.04), *[SILENCE] * 50]) == []


def test_a_pause_between_two_words_does_not_end_speech() -> None:
    found = changes([*noise(-20, 0.5), *[SILENCE] * 15, *noise(-20, 0.5)])
    assert [begun for _, begun in found] == [True]


def test_the_noise_of_a_line_is_learned_and_speech_over_it_is_found() -> None:
    detector = ActivityDetector()
    learned = changes(noise(-40, 20.0), detector)
    assert [begun for _, begun in learned] == [True, False]
    assert learned[-1][0] < 10.0
    assert [begun for _, begun in changes(noise(-15, 1.0), detector, 20.0)] == [True]


def test_a_line_that_sends_nothing_in_silence_stops_by_the_clock() -> None:
    detector = ActivityDetector()
    changes(noise(-20, 0.5), detector)
    assert detector.check(0.5 + HANG_S - 0.01) is None
    assert detector.check(0.5 + HANG_S) is False
    assert detector.check(9.0) is None


def test_text_keeps_speech_going() -> None:
    detector = ActivityDetector()
    changes(noise(-20, 0.5), detector)
    detector.add_text(0.8)
    assert detector.check(0.8 + HANG_S - 0.01) is None
    assert detector.check(0.8 + HANG_S) is False


def speech_segments(said: Samples) -> list[tuple[float, float]]:
    """Return where 10 ms are louder than -45 dBFS, in seconds; pauses shorter than `HANG_S` are part of it."""
    power = np.mean(said.astype(np.float64).reshape(-1, 80) ** 2, axis=1) / 32_768**2
    loud = np.flatnonzero(10 * np.log10(np.maximum(power, 1e-12)) > -45)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) * 0.01 > HANG_S) + 1)
    return [(float(run[0]) * 0.01, float(run[-1] + 1) * 0.01) for run in runs]


def test_recorded_speech_is_found_where_a_measurement_of_the_whole_recording_finds_it() -> None:
    said = np.concatenate([np.zeros(8_000, np.int16), talk()[:80_000], np.zeros(8_000, np.int16)])
    said = said[: len(said) // 160 * 160]
    payload = mulaw.encode(said)
    found = changes([payload[at : at + 160] for at in range(0, len(payload), 160)])
    expected = speech_segments(said)
    assert len(found) == 2 * len(expected)
    for (start_s, end_s), (begun_s, _), (stopped_s, _) in zip(expected, found[::2], found[1::2], strict=True):
        assert begun_s == pytest.approx(start_s, abs=0.25)
        assert stopped_s == pytest.approx(end_s + HANG_S, abs=0.25)


@given(st.lists(st.binary(max_size=320), max_size=40))
def test_whatever_is_heard_it_begins_and_stops_in_turns(packets: list[bytes]) -> None:
    found = [begun for _, begun in changes(packets)]
    assert found == [bool(number % 2 == 0) for number in range(len(found))]
