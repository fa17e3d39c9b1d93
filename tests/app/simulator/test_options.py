from pathlib import Path

import numpy as np
import pytest

from app.audio import mulaw
from app.simulator.options import CallOptions, read_script
from app.simulator.wav import write_stereo

SAMPLES = np.arange(8_000, dtype=np.int16)


def test_the_caller_hangs_up_when_the_audio_ends() -> None:
    script = read_script(CallOptions("http://a.b", None, "AC1", audio=SAMPLES))
    assert (script.said, script.ends_s) == (mulaw.encode(SAMPLES), 1.0)


def test_audio_may_come_from_a_file(tmp_path: Path) -> None:
    write_stereo(tmp_path / "a.wav", SAMPLES, SAMPLES)
    script = read_script(CallOptions("http://a.b", None, "AC1", audio=tmp_path / "a.wav", duration_s=5.0))
    assert (script.said, script.ends_s) == (mulaw.encode(SAMPLES), 5.0)


def test_a_call_may_be_silent_but_not_without_length() -> None:
    assert read_script(CallOptions("http://a.b", None, "AC1", duration_s=5.0)).said == b""
    with pytest.raises(ValueError, match="duration"):
        read_script(CallOptions("http://a.b", None, "AC1"))
