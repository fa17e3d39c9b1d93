from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.audio import mulaw
from app.simulator.options import CallOptions, read_script
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


def test_a_call_may_be_silent_but_not_without_length() -> None:
    assert read_script(options(duration_s=5.0)).said == b""
    with pytest.raises(ValueError, match="duration"):
        read_script(options())
