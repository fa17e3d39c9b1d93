from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.audio import mulaw
from app.simulator.options import CallOptions, read_script
from app.simulator.trouble import Scenario, Window
from app.simulator.wav import write_stereo

SAMPLES = np.arange(8_000, dtype=np.int16)


def options(**changes: Any) -> CallOptions:
    return CallOptions("http://a.b", None, "AC1", **changes)


def test_the_caller_hangs_up_when_the_audio_ends_or_after_a_duration(tmp_path: Path) -> None:
    write_stereo(tmp_path / "a.wav", SAMPLES, SAMPLES)
    for audio in (SAMPLES, tmp_path / "a.wav"):
        script = read_script(options(audio=audio))
        assert (script.said, script.ends_s) == (mulaw.encode(SAMPLES), 1.0)
        assert read_script(options(audio=audio, duration_s=5.0)).ends_s == 5.0


def test_where_the_line_is_silent_the_caller_says_nothing() -> None:
    line = Scenario(silent=(Window(0.25, 0.5), Window(0.9, 1.0)))
    heard = mulaw.decode(read_script(options(audio=np.full(8_000, 1_000, np.int16), line=line)).said)
    assert np.flatnonzero(np.diff(heard)).tolist() == [1_999, 5_999, 7_199]
    assert not heard[2_000:6_000].any()
    assert len(heard) == 8_000


def test_a_call_may_be_silent_but_not_without_length() -> None:
    assert read_script(options(duration_s=5.0)).said == b""
    with pytest.raises(ValueError, match="duration"):
        read_script(options())
