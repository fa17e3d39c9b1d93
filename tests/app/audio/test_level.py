import numpy as np
import pytest

from app.audio import mulaw
from app.audio.level import SILENT_DBFS, WINDOW_S, LevelMeter


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
