"""Calls made up sample by sample, so that every figure is known."""

import numpy as np
import pytest

from app.simulator.playout import Underrun
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.trouble import Window
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from scripts.side_by_side.figures import crowd_figures, stall_figures

SPEECH_S, LENGTH_S = 20, 23
NOISE = np.random.default_rng(1).normal(0, 4_000, SPEECH_S * RATE_HZ)
SAID = np.pad(np.clip(NOISE, -32_000, 32_000), (0, 3 * RATE_HZ)).astype(np.int16)
STALL = Window(8.0, 0.6)


def later(delay_s: float) -> Samples:
    """Return what was said, heard so much later."""
    return np.pad(SAID, (round(delay_s * RATE_HZ), 0))[: len(SAID)]


def report(heard: Samples, *gaps: Underrun, late_s: float = 0.001) -> CallReport:
    counts = StreamCounts(lateness_s=[late_s])
    stream = StreamReport("ws://a/", "MZ1", 0.0, LENGTH_S, counts)
    return CallReport("CA1", Outcome.CALLER_HUNG_UP, "", None, LENGTH_S, SAID, heard, (stream,), gaps)


def test_a_copy_is_heard_in_every_second_that_was_said() -> None:
    found = crowd_figures([report(later(0.02))], {"app": 0.01})
    assert (found.p50_ms, found.p99_ms) == (20.0, 20.0)
    assert (found.seconds_said, found.seconds_heard) == (SPEECH_S, SPEECH_S)
    assert found.snr_db is not None
    assert found.snr_db > 100


def test_of_a_crowd_the_median_call_and_the_worst_one_are_told() -> None:
    found = crowd_figures([report(later(delay_s)) for delay_s in (0.02, 0.1, 2.5)], {})
    assert (found.calls, found.p50_ms, found.p99_ms) == (3, 100.0, 2_500.0)


def test_underruns_and_the_simulators_lateness_are_of_all_calls() -> None:
    calls = [report(SAID, Underrun(1.0, 0.02), Underrun(12.0, 0.01)), report(SAID, late_s=0.003)]
    found = crowd_figures(calls, {})
    assert (found.underruns, found.underruns_settled) == (2, 1)
    assert found.underrun_ms == pytest.approx(30)
    assert found.simulator_late_p99_ms == pytest.approx(2.98)


def test_what_is_not_recognised_is_counted_and_spoils_no_figure() -> None:
    broken = later(0.1)
    broken[5 * RATE_HZ : 7 * RATE_HZ] = 0
    found = crowd_figures([report(broken)], {})
    assert found.p50_ms == 100.0
    assert SPEECH_S - 3 <= found.seconds_heard < SPEECH_S


def test_silence_has_no_delay() -> None:
    found = crowd_figures([report(np.zeros_like(SAID))], {})
    assert (found.p50_ms, found.p99_ms, found.snr_db, found.seconds_heard) == (None, None, None, 0)


def test_what_a_stall_leaves_behind_is_seen_two_seconds_after_it() -> None:
    turn = round((STALL.end_s + 1.9) * RATE_HZ)
    heard = np.concatenate([later(0.1)[:turn], later(0.55)[turn:]])
    found = stall_figures(report(heard, Underrun(8.1, 0.5)), STALL)
    assert (found.before_ms, found.left_ms, found.left_most_ms, found.underruns) == (100.0, 450.0, 450.0, 1)


def test_a_stall_that_is_made_up_for_leaves_nothing() -> None:
    slow = slice(round(STALL.at_s * RATE_HZ), round((STALL.end_s + 1.5) * RATE_HZ))
    heard = later(0.1)
    heard[slow] = later(0.7)[slow]
    assert stall_figures(report(heard), STALL).left_ms == 0.0


def test_after_a_call_that_broke_down_nothing_is_claimed() -> None:
    found = stall_figures(report(np.zeros_like(SAID)), STALL)
    assert (found.before_ms, found.left_ms, found.left_most_ms) == (None, None, None)
