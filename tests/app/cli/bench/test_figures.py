"""Calls made up sample by sample, so that every figure is known."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from app.cli.bench.calls import Measured
from app.cli.bench.figures import caller_figures, service_figures
from app.simulator.playout import Underrun
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.trouble import Scenario, Window
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.messages import Stage

SPEECH_S, LENGTH_S = 20, 23
NOISE = np.random.default_rng(1).normal(0, 4_000, SPEECH_S * RATE_HZ)
SAID = np.pad(np.clip(NOISE, -32_000, 32_000), (0, 3 * RATE_HZ)).astype(np.int16)


def later(latency_s: float, until_s: float = LENGTH_S) -> Samples:
    """Return what was said, heard so much later, the rest at once."""
    turn = round(until_s * RATE_HZ)
    return np.concatenate([np.pad(SAID, (round(latency_s * RATE_HZ), 0))[:turn], SAID[turn:]])


def report(heard: Samples, *gaps: Underrun, late_s: float = 0.001) -> CallReport:
    stream = StreamReport("ws://a/", "MZ1", 0.0, LENGTH_S, StreamCounts(lateness_s=[late_s], sent_s=[1.0]))
    return CallReport("CA1", Outcome.CALLER_HUNG_UP, "", None, LENGTH_S, SAID, heard, (stream,), gaps)


def test_of_a_crowd_the_median_call_and_the_worst_one_are_reported() -> None:
    gaps = Underrun(1.0, 0.02), Underrun(12.0, 0.01)
    calls = [report(later(0.02), *gaps), report(later(0.1)), report(later(2.5), late_s=0.003)]
    found = caller_figures(Measured(calls, {}))
    assert (found.calls, found.p50_ms, found.worst_p99_ms) == (3, 100.0, 2_500.0)
    assert (found.underruns, found.underruns_settled, found.underruns_adapted) == (2, 2, 1)
    assert found.underrun_ms == pytest.approx(30)
    assert found.simulator_late_p99_ms == pytest.approx(2.96)
    assert (found.seconds_said, found.seconds_heard) == (3 * SPEECH_S, 3 * SPEECH_S)
    assert found.snr_db is not None
    assert found.snr_db > 100


def test_a_gap_that_is_no_longer_than_the_simulator_was_late_then_is_not_ours() -> None:
    gaps = Underrun(11.0, 0.02), Underrun(12.0, 0.02), Underrun(13.0, 0.02)
    one, other = replace(report(later(0.1), *gaps), zero_s=100.0), replace(report(later(0.1)), zero_s=105.0)
    other.streams[0].counts.lateness_s[:], other.streams[0].counts.sent_s[:] = [0.03, 0.01], [6.024, 8.018]
    found = caller_figures(Measured([one, other], {}))
    assert (found.underruns_adapted, found.underruns_ours) == (3, 2)
    assert json.loads(json.dumps(asdict(found)))["underruns_ours"] == 2


def test_what_is_not_recognised_is_counted_and_spoils_no_figure() -> None:
    broken = later(0.1)
    broken[5 * RATE_HZ : 7 * RATE_HZ] = 0
    found = caller_figures(Measured([report(broken)], {}))
    assert found.p50_ms == 100.0
    assert SPEECH_S - 3 <= found.seconds_heard < SPEECH_S


def test_latency_is_compared_before_and_after_the_trouble_on_a_line() -> None:
    line = Scenario(stalls=(Window(6.0, 1.0), Window(8.0, 1.0)))
    found = caller_figures(Measured([report(later(0.1, until_s=10.0))], {}), line)
    assert (found.before_ms, found.after_ms) == (100.0, 0.0)


@pytest.mark.parametrize("echoes", [True, False])
def test_silence_has_no_latency_and_neither_has_a_caller_who_does_not_hear_themselves(echoes: bool) -> None:
    heard = np.zeros_like(SAID) if echoes else SAID
    found = caller_figures(Measured([report(heard)], {}), echoes=echoes)
    assert (found.p50_ms, found.worst_p99_ms, found.snr_db, found.seconds_heard) == (None, None, None, 0)


def test_a_frame_is_timed_in_each_stage_and_on_its_whole_way() -> None:
    frame = [["encode", 1.0, 1.004], ["step", 1.005, 1.011], ["decode", 1.011, 1.014]]
    counts = {"frames_out": 2, "overruns": 1}
    found = service_figures([{"spans": [frame, frame[:2]], "counts": counts}, {"spans": [], "counts": {}}], 0.5)
    assert found.stages[Stage.STEP].p50_ms == pytest.approx(6)
    assert (found.through_ms, found.waited_p99_ms) == pytest.approx((14, 1))
    assert (found.frames, found.frames_dropped, found.overruns, found.loop_lag_p99_ms) == (0, 0, 1, 0.5)
