"""Whole calls in virtual time, one for each kind of trouble: the latency comes back, and gaps stay few.

The line takes 10 ms each way here, which is part of every latency below. Nothing depends on the speed of this machine.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from app.audio.resample import FILTERS_S
from app.simulator.trouble import KNOWN, Scenario, Window
from app.simulator.virtual import VirtualReport, run_virtual
from tests.scale import scaled

TRAVEL_MS = 20
FRAME_MS = 80


def _run(name: str, seconds: float | None = None) -> VirtualReport:
    scenario = KNOWN[name]
    return run_virtual(replace(scenario, seconds=seconds) if seconds else scenario)


def test_a_steady_line_has_the_latency_of_a_frame_and_a_short_playout_buffer() -> None:
    call = _run("steady", 60)
    assert call.latency_ms(50) <= FRAME_MS + TRAVEL_MS + 20
    assert call.latency_ms(99) <= FRAME_MS + TRAVEL_MS + 45
    assert call.underruns_after(10) == 0
    assert all(0.005 <= buffered_s <= 0.04 for at_s, buffered_s in call.buffer_levels if at_s > 10)


@pytest.mark.parametrize(
    "name",
    [
        *("stall-0.2", "stall-0.6", "stall-2.0", "stall-5.0"),
        *("engine-late", "pipeline-lost", "loop-held", "socket-unread"),
    ],
)
def test_two_seconds_after_a_stall_the_latency_is_back(name: str) -> None:
    call = _run(name)
    trouble = call.scenario.troubles[0]
    end_s = trouble.at_s + trouble.length_s
    before_ms = call.latency_ms(50, trouble.at_s - 5, trouble.at_s - 0.2)
    assert call.latency_ms(100, end_s + 2, end_s + 20) <= before_ms + 20


def test_a_lost_pipeline_is_silence_and_nothing_of_it_is_heard_afterwards_or_counted_as_latency() -> None:
    call = _run("pipeline-lost")
    for lost in call.scenario.pipeline_lost:
        spoken = [one.spoken_s for one in call.heard if lost.at_s - 1 < one.spoken_s < lost.end_s + 1]
        silence_s = max(b - a for a, b in itertools.pairwise(spoken))
        assert lost.length_s <= silence_s <= lost.length_s + 3 * FRAME_MS / 1000
    assert max(call.record.latencies_s) <= 0.3
    assert [gap.seconds for gap in call.record.gaps] == [4.0, 2.0]
    assert call.underruns_after(10) == 2, "the two gaps"


def test_every_one_of_many_stalls_is_got_over() -> None:
    stalls = tuple(Window(at_s, 0.6) for at_s in range(20, 80, 12))
    call = run_virtual(Scenario(seconds=90, stalls=stalls))
    before_ms = call.latency_ms(50, 10, 20)
    for stall in stalls:
        assert call.latency_ms(50, stall.at_s + 2.6, stall.at_s + 11) <= before_ms + 35


def test_jitter_on_every_packet_is_learnt() -> None:
    call = _run("jitter", 120)
    assert call.underruns_after(10) <= call.scenario.seconds / 60
    assert call.latency_ms(99) <= FRAME_MS + TRAVEL_MS + 80


@pytest.mark.parametrize("name", ["pairs", "triples"])
def test_packets_in_groups_make_no_gap(name: str) -> None:
    call = _run(name)
    assert call.underruns_after(10) == 0
    assert call.latency_ms(99) <= FRAME_MS + TRAVEL_MS + 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast-clock", "slow-clock"])
def test_a_drifting_clock_leaves_the_latency_flat_for_an_hour(name: str) -> None:
    minutes = scaled(60, 10)
    call = _run(name, 60 * minutes)
    medians_ms = [call.latency_ms(50, minute * 60, minute * 60 + 60) for minute in range(1, minutes)]
    assert max(medians_ms) - min(medians_ms) <= 20
    assert call.underruns_after(10) <= 2


def test_a_line_that_sends_nothing_while_nobody_speaks() -> None:
    call = _run("suppressed")
    for window in call.scenario.silent:
        end_s = window.at_s + window.length_s
        assert call.latency_ms(100, end_s, end_s + 0.5) <= FRAME_MS + TRAVEL_MS + 65
        assert call.latency_ms(100, end_s + 2, end_s + 5) <= FRAME_MS + TRAVEL_MS + 25


@pytest.mark.parametrize("name", ["marks-lost", "no-marks"])
def test_a_line_that_returns_few_marks_or_none_is_served_all_the_same(name: str) -> None:
    call = _run(name)
    assert call.latency_ms(99) <= FRAME_MS + TRAVEL_MS + 45
    assert call.underruns_after(10) == 0


def test_a_slow_reader_adds_what_it_needs_and_no_more() -> None:
    call = _run("slow-reader")
    each_ms = 1000 / call.scenario.reads_per_s
    assert call.latency_ms(99, 10, 60) <= FRAME_MS + TRAVEL_MS + 2 * each_ms + 45


def test_a_connection_that_breaks_ends_the_sound() -> None:
    assert len(_run("cut").sound) == 20 * 8_000


def test_the_same_scenario_gives_the_same_call() -> None:
    assert _run("jitter", 30).heard == _run("jitter", 30).heard


@pytest.mark.parametrize(
    "name",
    ["steady", "stall-2.0", "engine-late", "pipeline-lost", "pairs", "triples", "slow-clock", "marks-lost"],
)
def test_the_latency_that_the_service_estimates_is_the_one_that_is_heard(name: str) -> None:
    call = _run(name, 60)
    heard_ms = [one.latency_s * 1000 for one in call.heard]
    estimated_ms = [(delay_s - FILTERS_S) * 1000 for delay_s in call.record.latencies_s]
    assert len(estimated_ms) == len(heard_ms)
    sure = slice(int(12 / 0.08), None)  # of a line's own lateness the service learns in the first seconds
    for percent in (10, 50, 95):
        assert np.percentile(estimated_ms[sure], percent) == pytest.approx(
            np.percentile(heard_ms[sure], percent), abs=2
        )
