import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.level import HANG_S, SILENT_DBFS, WINDOW_S, ActivityDetector, LevelMeter
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


@pytest.mark.parametrize(
    ("packets", "found"),
    [
        ([SILENCE] * 500, []),
        ([*[SILENCE] * 50, *noise(-10, 0.04), *[SILENCE] * 50], []),  # a click
        ([*noise(-20, 0.5), *[SILENCE] * 15, *noise(-20, 0.5)], [True]),  # a pause between two words
    ],
)
def test_a_click_is_no_speech_and_a_short_pause_does_not_end_it(packets: list[bytes], found: list[bool]) -> None:
    assert [begun for _, begun in changes(packets)] == found


def test_speech_begins_when_it_has_lasted_and_stops_when_there_has_been_none() -> None:
    found = changes([*[SILENCE] * 50, *noise(-20, 1.0), *[SILENCE] * 50])
    assert [begun for _, begun in found] == [True, False]
    assert [at_s for at_s, _ in found] == pytest.approx([1.06, 2.0 + HANG_S], abs=PACKET_S + 1e-6)


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


# Levels.


def tone(peak: float, seconds: float = 0.5) -> bytes:
    wave = peak * np.sin(np.arange(int(seconds * 8_000)) * 2 * np.pi * 1_000 / 8_000)
    return mulaw.encode(wave.astype(np.int16))


@pytest.mark.parametrize(("peak", "level_dbfs"), [(32_000, -3.2), (3_277, -23.0), (328, -43.0)])
def test_a_tone_has_its_level(peak: float, level_dbfs: float) -> None:
    """A sine's power is half its peak's square: 3 dB under it."""
    meter = LevelMeter()
    meter.add(tone(peak), 1.0)
    assert meter.level_dbfs(1.0) == pytest.approx(level_dbfs, abs=0.5)


def test_what_is_older_than_a_quarter_of_a_second_counts_no_more() -> None:
    meter = LevelMeter()
    meter.add(tone(32_000), 1.0)
    for packet in range(13):
        meter.add(bytes([mulaw.SILENCE]) * 160, 1.0 + packet * 0.02)
    assert meter.level_dbfs(1.26) == SILENT_DBFS


def test_a_line_that_sends_nothing_is_silent() -> None:
    meter = LevelMeter()
    assert meter.level_dbfs(0.0) == SILENT_DBFS
    meter.add(tone(32_000), 1.0)
    assert meter.level_dbfs(1.0 + WINDOW_S) > SILENT_DBFS
    assert meter.level_dbfs(1.01 + WINDOW_S) == SILENT_DBFS
