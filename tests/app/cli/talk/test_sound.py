"""A file in place of a microphone, in virtual time."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.audio.opus import PACKET_SAMPLES
from app.cli.talk.sound import FileSound, open_file
from tests.app.cli.talk.tones import tone, tone_s
from workers.messages import SAMPLE_RATE_HZ


def test_a_file_is_said_in_real_time_then_silence() -> None:
    sound, said = FileSound(tone(0.5), 1.0), []
    assert len(sound.read(7.0)) == 0
    sound.start(10.0)
    for tick in range(100):
        assert not sound.ended()
        said.append(sound.read(10.0 + tick * 0.01))
    said.append(sound.read(11.3))
    assert sound.ended()
    assert len(np.concatenate(said)) == SAMPLE_RATE_HZ
    np.testing.assert_array_equal(np.concatenate(said)[: SAMPLE_RATE_HZ // 2], tone(0.5))
    assert not np.concatenate(said)[SAMPLE_RATE_HZ // 2 :].any()


def test_a_conversation_lasts_three_seconds_longer_than_the_file() -> None:
    sound = FileSound(tone(0.5))
    sound.start(0.0)
    sound.read(3.495)
    assert not sound.ended()
    sound.read(3.505)
    assert sound.ended()


def test_a_file_may_be_cut_short() -> None:
    sound = FileSound(tone(5.0), 1.0)
    sound.start(0.0)
    assert len(sound.read(60.0)) == SAMPLE_RATE_HZ
    assert sound.ended()


def test_both_sides_are_saved(tmp_path: Path) -> None:
    sound = FileSound(tone(0.5), 1.0)
    sound.start(0.0)
    for tick in range(101):
        sound.read(tick * 0.01)
        if tick % 4 == 0:
            sound.add_sent(tone(0.04))
        if tick >= 30 and tick % 8 == 0:
            sound.add_heard(tone(0.08))
    sound.save(tmp_path / "out.wav")
    saved, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (rate_hz, saved.shape[1]) == (SAMPLE_RATE_HZ, 2)
    assert sound.first_sound_s == pytest.approx(0.33, abs=0.02)
    assert tone_s(saved[:, 0]) > 0.9
    assert tone_s(saved[: SAMPLE_RATE_HZ // 4, 1]) == 0
    assert tone_s(saved[:, 1]) > 0.5


@pytest.mark.parametrize("rate_hz", [8_000, 24_000, 44_100])
def test_a_file_of_any_rate_is_said(tmp_path: Path, rate_hz: int) -> None:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
    soundfile.write(tmp_path / "in.wav", np.stack([wave, wave], axis=1), rate_hz)
    sound = open_file(tmp_path / "in.wav", 1.0)
    sound.start(0.0)
    assert tone_s(sound.read(1.0)[: 24 * PACKET_SAMPLES]) > 0.9
