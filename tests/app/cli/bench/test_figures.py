"""Calls made up sample by sample, so that every figure is known."""

import numpy as np
import pytest

from app.cli.bench.calls import Measured
from app.cli.bench.figures import crowd_figures
from app.simulator.playout import Underrun
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ

SPEECH_S, LENGTH_S = 20, 23
NOISE = np.random.default_rng(1).normal(0, 4_000, SPEECH_S * RATE_HZ)
SAID = np.pad(np.clip(NOISE, -32_000, 32_000), (0, 3 * RATE_HZ)).astype(np.int16)


def later(delay_s: float) -> Samples:
    """Return what was said, heard so much later."""
    return np.pad(SAID, (round(delay_s * RATE_HZ), 0))[: len(SAID)]


def report(heard: Samples, *gaps: Underrun, late_s: float = 0.001) -> CallReport:
    counts = StreamCounts(lateness_s=[late_s])
    stream = StreamReport("ws://a/", "MZ1", 0.0, LENGTH_S, counts)
    return CallReport("CA1", Outcome.CALLER_HUNG_UP, "", None, LENGTH_S, SAID, heard, (stream,), gaps)


def test_a_copy_is_heard_in_every_second_that_was_said() -> None:
    found = crowd_figures(Measured([report(later(0.02))], {"app": 0.01}))
    assert (found.p50_ms, found.worst_p99_ms) == (20.0, 20.0)
    assert (found.seconds_said, found.seconds_heard) == (SPEECH_S, SPEECH_S)
    assert found.snr_db is not None
    assert found.snr_db > 100


def test_of_a_crowd_the_median_call_and_the_worst_one_are_reported() -> None:
    found = crowd_figures(Measured([report(later(delay_s)) for delay_s in (0.02, 0.1, 2.5)], {}))
    assert (found.calls, found.p50_ms, found.worst_p99_ms) == (3, 100.0, 2_500.0)


def test_underruns_and_the_simulators_lateness_are_of_all_calls() -> None:
    calls = [report(SAID, Underrun(1.0, 0.02), Underrun(12.0, 0.01)), report(SAID, late_s=0.003)]
    found = crowd_figures(Measured(calls, {}))
    assert (found.underruns, found.underruns_adapted) == (2, 1)
    assert found.underrun_ms == pytest.approx(30)
    assert found.simulator_late_p99_ms == pytest.approx(2.98)


def test_what_is_not_recognised_is_counted_and_spoils_no_figure() -> None:
    broken = later(0.1)
    broken[5 * RATE_HZ : 7 * RATE_HZ] = 0
    found = crowd_figures(Measured([report(broken)], {}))
    assert found.p50_ms == 100.0
    assert SPEECH_S - 3 <= found.seconds_heard < SPEECH_S


def test_silence_has_no_delay() -> None:
    found = crowd_figures(Measured([report(np.zeros_like(SAID))], {}))
    assert (found.p50_ms, found.worst_p99_ms, found.snr_db, found.seconds_heard) == (None, None, None, 0)
