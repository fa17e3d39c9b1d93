"""The figures of simulated calls: the caller's side from the simulator, the stages from the service's record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.cli.bench.calls import Measured
from app.simulator.measure import Latency, mouth_to_ear_ms, window_snr_db
from app.simulator.report import CallReport, percentile_ms
from app.simulator.trouble import STEADY, Scenario
from workers.messages import Stage

RECOVERY_S = 2.0
LOOK_S = 5.0
SETTLED_S = 1.0
"""Gaps before this come from the playout buffer's first filling."""
ADAPTED_S = 10.0
"""From then on the playout buffer has adapted to the line's jitter."""
MAX_LATENCY_S = 3.0


@dataclass(frozen=True, slots=True)
class StageTime:
    """The time of one stage for a frame, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class CallFigures:
    """One call. Latencies are None where the caller does not hear themselves (see `mouth_to_ear_ms`).

    `before_ms` is the median latency before the line's first trouble, `after_ms` the largest in the five seconds that
    begin two seconds after the last. `through_ms` is one frame's way through all stages.
    """

    seconds: float
    first_sound_ms: float | None
    mouth_to_ear_p50_ms: float | None
    mouth_to_ear_p99_ms: float | None
    before_ms: float | None
    after_ms: float | None
    snr_db: float | None
    underruns: int
    underruns_settled: int
    underruns_adapted: int
    underrun_ms: float
    buffered_p50_ms: float | None
    buffered_p99_ms: float | None
    frames: int
    frames_dropped: int
    simulator_late_p99_ms: float | None
    stages: dict[Stage, StageTime]
    through_ms: float


@dataclass(frozen=True, slots=True)
class CrowdFigures:
    """Many calls at once; `cpu` is in processor seconds per second of one call.

    The median of the calls' median latencies and signal-to-noise ratios, the worst of their 99th percentiles, the sum
    of their gaps. `seconds_heard` of the `seconds_said` were recognised in what came back; the figures are of these.
    `simulator_late_p99_ms` is how late the simulator, which shares the processors, sent its packets.
    """

    calls: int
    p50_ms: float | None
    worst_p99_ms: float | None
    snr_db: float | None
    underruns: int
    underruns_adapted: int
    underrun_ms: float
    seconds_said: int
    seconds_heard: int
    cpu: dict[str, float]
    simulator_late_p99_ms: float | None


def call_figures(report: CallReport, record: dict[str, Any], echoes: bool, line: Scenario = STEADY) -> CallFigures:
    """Return the figures of one call over that line; `echoes` when the caller hears themselves."""
    latency = mouth_to_ear_ms(report.said, report.heard) if echoes else Latency(())
    before_ms, after_ms = around_ms(latency, line)
    spans = np.array(
        [[(began, ended) for _, began, ended in frame] for frame in record["spans"] if len(frame) == len(Stage)]
    ).reshape(-1, len(Stage), 2)
    return CallFigures(
        seconds=report.ended_s,
        first_sound_ms=None if report.first_sound_s is None else report.first_sound_s * 1000,
        mouth_to_ear_p50_ms=latency.p50_ms,
        mouth_to_ear_p99_ms=latency.p99_ms,
        before_ms=before_ms,
        after_ms=after_ms,
        snr_db=median(window_snr_db(report.said, report.heard, latency)),
        underruns=len(report.underruns),
        underruns_settled=underruns_from(report, SETTLED_S),
        underruns_adapted=underruns_from(report, ADAPTED_S),
        underrun_ms=report.underrun_s * 1000,
        buffered_p50_ms=report.buffered_percentile_ms(50),
        buffered_p99_ms=report.buffered_percentile_ms(99),
        frames=int(record["counts"].get("frames_out", 0)),
        frames_dropped=int(record["counts"].get("frames_dropped", 0)),
        simulator_late_p99_ms=report.lateness_percentile_ms(99),
        stages=_stage_times(spans),
        through_ms=float(np.median(spans[:, -1, 1] - spans[:, 0, 0])) * 1000 if len(spans) else 0.0,
    )


def crowd_figures(measured: Measured) -> CrowdFigures:
    """Return the figures of all calls of a crowd, each caller hearing themselves."""
    reports = measured.reports
    latencies = [mouth_to_ear_ms(report.said, report.heard, max_latency_s=MAX_LATENCY_S) for report in reports]
    late_s = [late for report in reports for stream in report.streams for late in stream.counts.lateness_s]
    snrs_db = (
        window_snr_db(report.said, report.heard, latency) for report, latency in zip(reports, latencies, strict=True)
    )
    return CrowdFigures(
        calls=len(reports),
        p50_ms=median([latency.p50_ms for latency in latencies]),
        worst_p99_ms=max((latency.p99_ms for latency in latencies if latency.p99_ms is not None), default=None),
        snr_db=median([median(snr_db) for snr_db in snrs_db]),
        underruns=sum(len(report.underruns) for report in reports),
        underruns_adapted=sum(underruns_from(report, ADAPTED_S) for report in reports),
        underrun_ms=sum(report.underrun_s for report in reports) * 1000,
        seconds_said=sum(len(mouth_to_ear_ms(report.said, report.said).windows) for report in reports),
        seconds_heard=sum(len(latency.windows) for latency in latencies),
        cpu=measured.cpu,
        simulator_late_p99_ms=percentile_ms(late_s, 99),
    )


def around_ms(latency: Latency, line: Scenario) -> tuple[float | None, float | None]:
    """Return the median latency before the first trouble, and the largest from 2 to 7 s after the last."""
    if not line.troubles:
        return None, None
    first_s, over_s = line.troubles[0].at_s, line.troubles[-1].end_s + RECOVERY_S
    before = [one.latency_ms for one in latency.windows if one.at_s < first_s - 1]
    after = [one.latency_ms for one in latency.windows if over_s <= one.at_s <= over_s + LOOK_S]
    return median(before), max(after, default=None)


def underruns_from(report: CallReport, moment_s: float) -> int:
    """Return how many gaps were heard from that moment on."""
    return sum(underrun.start_s >= moment_s for underrun in report.underruns)


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of what is known, None of nothing."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _stage_times(spans: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[Stage, StageTime]:
    """Return the time of each stage; `spans` has the shape (frames, stages, 2): began and ended, in seconds."""
    if not len(spans):
        return {}
    p50_ms, p99_ms = np.percentile((spans[:, :, 1] - spans[:, :, 0]) * 1000, [50, 99], axis=0)
    return {stage: StageTime(float(p50_ms[at]), float(p99_ms[at])) for at, stage in enumerate(Stage)}
