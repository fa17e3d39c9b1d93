"""A call's transcript as WebVTT (https://www.w3.org/TR/webvtt1/): a cue for each turn, with the speaker's voice.

Times count from the start of the first stream, where its recording begins.
"""

from collections.abc import Iterator

from app.calls.transcript import Side, Turn
from app.telemetry.call_log.entry import CallEntry

MEDIA_TYPE = "text/vtt"
VOICES = {Side.CALLER: "Caller", Side.MOSHI: "Moshi"}
LEAST_S = 0.2
"""How long a cue is shown at least: one that has no length is none."""
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def write_vtt(call: CallEntry) -> str:
    return "\n".join(["WEBVTT", "", *_lines(call)])


def _lines(call: CallEntry) -> Iterator[str]:
    zero_s = (call.started_at - call.reserved_at).total_seconds() if call.started_at else 0.0
    for turn in call.turns:
        start_s, stop_s = max(0.0, turn.start_s - zero_s), max(0.0, turn.stop_s - zero_s)
        yield f"{_time(start_s)} --> {_time(max(stop_s, start_s + LEAST_S))}"
        yield f"<v {VOICES[turn.speaker]}>{_text(turn)}"
        yield ""


def _text(turn: Turn) -> str:
    return " ".join(turn.text.split()).translate(_ESCAPES)


def _time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
