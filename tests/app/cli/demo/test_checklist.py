"""The checklist of the demo, on a call that is put together from what the caller must hear."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.audio import mulaw
from app.audio.resample import Decimator
from app.cli.demo.checklist import Point, check_call
from app.cli.demo.expectation import Expectation, ExpectedUtterance, expect
from app.cli.demo.run import GREETING
from app.cli.plots import greeting_end_s
from app.simulator.conversation import LENGTH_S, conversation
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.wav import Samples

RATE_HZ, PACKET = mulaw.SAMPLE_RATE_HZ, mulaw.PACKET_SAMPLES
HEARD_AFTER_S = 0.1
GREETED = "the greeting is Moshi's, word for word"
QUIET = "Moshi listens in silence"
ORDERLY = "no errors: the caller hangs up, nothing dropped"


@pytest.fixture(scope="module")
def expected() -> Expectation:
    return expect(conversation(), record(), GREETING)


def record(**counts: int) -> dict[str, Any]:
    return {"greeting_frames": 25, "takeover_s": 1.74, "end": "caller hung up", "counts": counts}


def sound(utterance: ExpectedUtterance) -> Samples:
    samples = np.rint(np.clip(Decimator().push(utterance.pcm) * 32768, -32768, 32767)).astype(np.int16)
    return mulaw.decode(mulaw.encode(samples))


def call(expected: Expectation, greeting: Samples | None = None) -> CallReport:
    """A call in which all is heard `HEARD_AFTER_S` after Moshi decided to say it, the greeting as given."""
    heard = np.zeros(round(LENGTH_S * RATE_HZ), np.int16)
    for utterance in expected.utterances:
        first = round(((utterance.decided_s or 0.0) + HEARD_AFTER_S) * RATE_HZ)
        samples = sound(utterance) if utterance.decided_s or greeting is None else greeting
        heard[first : first + len(samples)] = samples[: len(heard) - first]
    stream = StreamReport("ws://test", "MZ1", 0.0, LENGTH_S, StreamCounts())
    parts = (Outcome.CALLER_HUNG_UP, "the caller hung up", None, LENGTH_S, conversation()[: len(heard)], heard)
    return CallReport("CA1", *parts, streams=(stream,))


def failed(report: CallReport, expected: Expectation, **counts: int) -> list[Point]:
    found = record(**counts) | {"transcript": expected.transcript}
    return [point for point in check_call(report, found, expected) if not point.passed]


def packets(samples: Samples) -> Samples:
    """Shape (packets, 160)."""
    return samples[: len(samples) // PACKET * PACKET].reshape(-1, PACKET)


def test_all_points_hold_in_a_call_as_it_must_be(expected: Expectation) -> None:
    assert failed(call(expected), expected) == []


def test_pauses_between_words_may_be_shorter_and_longer(expected: Expectation) -> None:
    rows = packets(sound(expected.utterances[0]))
    quiet = [row for row in range(len(rows)) if not rows[row].any() and rows[:row].any()]
    shorter = np.delete(rows, quiet[:1], axis=0).reshape(-1)
    longer = np.insert(rows, quiet[-1], 0, axis=0).reshape(-1)
    assert failed(call(expected, shorter), expected) == failed(call(expected, longer), expected) == []


def test_a_word_that_is_missing_is_found(expected: Expectation) -> None:
    rows = packets(sound(expected.utterances[0])).copy()
    rows[len(rows) // 3 : len(rows) // 2] = 0
    assert [point.title for point in failed(call(expected, rows.reshape(-1)), expected)] == [GREETED]


@pytest.mark.parametrize("counts", [{"frames_dropped": 1}, {"overruns": 1}])
def test_on_a_busy_machine_what_it_spoils_is_timing(expected: Expectation, counts: dict[str, int]) -> None:
    report = call(expected, np.zeros(8_000, np.int16))
    report.heard[-800:] = 3_000
    found = {point.title: point.timed for point in failed(report, expected, **counts)}
    assert found.items() >= {GREETED: True, QUIET: True}.items()
    assert all(found.values())
    assert (ORDERLY in found) == ("frames_dropped" in counts)
    assert not all(point.timed for point in failed(report, expected)), "on a quiet machine it is a fault"


def test_an_end_that_is_wrong_is_no_matter_of_timing(expected: Expectation) -> None:
    report = replace(call(expected), outcome=Outcome.LINE_CUT)
    [point] = failed(report, expected, frames_dropped=1)
    assert (point.title, point.timed) == (ORDERLY, False)


@pytest.mark.parametrize(("said_s", "end_s"), [(None, 1.7), (0.5, 1.7), (5.0, 4.0)])
def test_moshi_does_not_listen_before_the_last_word_of_its_greeting(said_s: float | None, end_s: float) -> None:
    assert greeting_end_s({"takeover_s": 1.7, "started_s": 1.0, "greeting_said_s": said_s}) == end_s
