import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.mulaw import PACKET_SAMPLES
from app.audio.time_stretch import (
    FADE_SAMPLES,
    QUIET_RMS,
    Samples,
    drop_silence,
    fade_in,
    repeat_silence,
    shorten_speech,
)

FRAME = 4 * PACKET_SAMPLES
FULL_SCALE = 32_767


def sine(hertz: float, level: float = 8_000, samples: int = FRAME, phase: float = 0.0) -> Samples:
    wave: Samples = np.rint(level * np.sin(2 * np.pi * hertz / 8_000 * np.arange(samples) + phase)).astype(np.int16)
    return wave


def packets(*levels: int) -> Samples:
    """One packet of each level, every sample of it the same."""
    return np.repeat(np.array(levels, np.int16), PACKET_SAMPLES)


def loudest_hertz(samples: Samples) -> float:
    """The frequency of the strongest line of the spectrum, to 1 Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8_000))
    return float(np.argmax(spectrum))


def steps(samples: Samples) -> int:
    return int(np.abs(np.diff(samples.astype(int))).max())


@pytest.mark.parametrize("hertz", [80, 137, 200, 333, 440, 1_000])
@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5])
def test_a_tone_that_is_spliced_is_the_same_tone_without_a_step(hertz: float, phase: float) -> None:
    tone = sine(hertz, phase=phase)
    shorter = shorten_speech(tone)
    assert loudest_hertz(shorter) == pytest.approx(loudest_hertz(tone), abs=8_000 / len(shorter))
    assert steps(shorter) <= 1.1 * steps(tone)


@given(st.floats(80, 400), st.floats(0, 6.3), st.integers(0, 3))
def test_a_voice_that_is_spliced_is_never_silent_where_it_is_cut(pitch: float, phase: float, overtones: int) -> None:
    tones = [sine(pitch * n, 4_000 / n, phase=phase * n) for n in range(1, overtones + 2)]
    voice = np.sum(tones, axis=0).astype(np.int16)
    assert quietest(shorten_speech(voice)) > 0.4 * quietest(voice)


def quietest(samples: Samples) -> float:
    """The lowest level of any 12.5 ms."""
    return float(np.sqrt(np.convolve(samples.astype(float) ** 2, np.ones(100) / 100, "valid").min()))


@given(st.integers(PACKET_SAMPLES + FADE_SAMPLES, FRAME + 50), st.integers(0, 2**32 - 1))
def test_a_splice_takes_one_packet_away_and_leaves_the_ends_alone(length: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-FULL_SCALE - 1, FULL_SCALE, length, np.int16, endpoint=True)
    shorter = shorten_speech(noise)
    assert (len(shorter), shorter.dtype) == (length - PACKET_SAMPLES, np.dtype(np.int16))
    assert shorter[0] == noise[0]
    assert shorter[-1] == pytest.approx(noise[-1], abs=1)
    before = int(np.argmax(np.append(shorter != noise[: len(shorter)], True)))
    after = int(np.argmax(np.append((shorter != noise[PACKET_SAMPLES:])[::-1], True)))
    assert before + after >= len(shorter) - FADE_SAMPLES


def test_a_splice_cuts_where_it_shows_least() -> None:
    """Only from 300 on does the sound repeat after a packet."""
    noise = np.random.default_rng(1).integers(-9_000, 9_000, FRAME + PACKET_SAMPLES).astype(np.int16)
    noise[300 + PACKET_SAMPLES : 300 + 2 * PACKET_SAMPLES] = noise[300 : 300 + PACKET_SAMPLES]
    at = 304  # the first place that is tried
    np.testing.assert_array_equal(shorten_speech(noise), np.concatenate([noise[:at], noise[at + PACKET_SAMPLES :]]))


def test_of_the_quiet_packets_so_many_are_left_out_and_the_others_stay_as_they_are() -> None:
    samples = packets(5_000, 10, 6_000, -20)
    for most, left in [(0, samples), (1, packets(5_000, 6_000, -20)), (2, packets(5_000, 6_000))]:
        np.testing.assert_array_equal(drop_silence(samples, most), left)
    np.testing.assert_array_equal(drop_silence(samples, 9), packets(5_000, 6_000))
    assert len(drop_silence(packets(0, 0, 0, 0), 4)) == len(drop_silence(packets(), 4)) == 0


@pytest.mark.parametrize(("level", "quiet"), [(0, True), (-QUIET_RMS + 1, True), (QUIET_RMS, False), (-300, False)])
def test_quiet_is_what_lies_45_db_below_full_scale(level: float, quiet: bool) -> None:
    assert (len(drop_silence(packets(round(level)), 1)) == 0) == quiet
    assert 20 * np.log10(QUIET_RMS / FULL_SCALE) == pytest.approx(-45, abs=0.5)


def test_a_loud_packet_does_not_overflow_into_a_quiet_one() -> None:
    assert len(drop_silence(packets(-32_768, 32_767), 2)) == 2 * PACKET_SAMPLES


def test_the_first_quiet_packet_is_repeated_and_speech_never() -> None:
    np.testing.assert_array_equal(repeat_silence(packets(5_000, 10, 20, 900)), packets(5_000, 10, 10, 20, 900))
    loud = packets(5_000, 6_000)
    np.testing.assert_array_equal(repeat_silence(loud), loud)


@pytest.mark.parametrize("level", [-32_768, -1, 0, 1, 32_767])
def test_what_follows_a_gap_begins_softly_and_is_itself_after_5_ms(level: int) -> None:
    samples = packets(level)
    softened = fade_in(samples)
    assert softened[0] == 0
    assert steps(softened) <= abs(level) / (FADE_SAMPLES - 1) + 1
    np.testing.assert_array_equal(softened[FADE_SAMPLES:], samples[FADE_SAMPLES:])
    assert samples[0] == level, "what was given is not changed"
