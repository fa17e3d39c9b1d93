from dataclasses import replace
from datetime import timedelta

from app.telemetry.call_log.entry import TranscriptWord
from app.telemetry.call_log.webvtt import write_vtt
from tests.app.telemetry.call_log.records import NOON, entry


def test_a_turn_is_a_cue_with_a_voice_on_the_clock_of_the_recording() -> None:
    said = [
        TranscriptWord(1.0, "Hello", "moshi", 1.4),
        TranscriptWord(3.5, "A", "caller", 3.6),
        TranscriptWord(3.7, "<b>&", "caller", 3_661.25),
    ]
    call = replace(entry(), started_at=NOON + timedelta(seconds=1.5), transcript=said)
    assert write_vtt(call) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:00.200\n<v Moshi>Hello\n\n"
        "00:00:02.000 --> 01:00:59.750\n<v Caller>A &lt;b&gt;&amp;\n"
    )


def test_a_call_without_words_has_no_cue() -> None:
    assert write_vtt(entry(ended=False)) == "WEBVTT\n"
