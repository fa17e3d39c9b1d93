"""The figures of simulated calls: the callers' side from the simulator, the stages from the service's records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.cli.bench.calls import Measured
from app.cli.bench.output import Rows, db, ms
from app.simulator.measure import Latency, LatencyWindow, mouth_to_ear_ms, window_snr_db
from app.simulator.playout import Underrun
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
AT_ONCE_S = 0.005
"""Within so long a simulator that was late does all that had become due."""


@dataclass(frozen=True, slots=True)
class CallerFigures:
    """Calls as their callers heard them; `cpu` is in processor seconds per second of one call.

    The median of the calls' medians and signal-to-noise ratios, the worst of their first sounds and 99th percentiles,
    the sum of their gaps. Latencies are None where a caller does not hear themselves. `seconds_heard` of the
    `seconds_said` were recognised in what came back; the figures are of these. `before_ms` is the median latency before
    the line's first trouble, `after_ms` the largest in the five seconds that begin two seconds after the last.
    `simulator_late_p99_ms` is how late the simulator, which shares the processors, sent its packets; `underruns_ours`
    are those of the `underruns_adapted` that are longer than it was late when they ended.
    """

    calls: int
    first_sound_ms: float | None
    p50_ms: float | None
    worst_p99_ms: float | None
    before_ms: float | None
    after_ms: float | None
    snr_db: float | None
    underruns: int
    underruns_settled: int
    underruns_adapted: int
    underruns_ours: int
    underrun_ms: float
    buffered_p50_ms: float | None
    buffered_p99_ms: float | None
    seconds_said: int
    seconds_heard: int
    cpu: dict[str, float]
    simulator_late_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class StageTime:
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """What the service measured: `through_ms` is one frame's way through all stages, `waited_p99_ms` how long an
    encoded frame waited for its step; `overruns` are frames with a stage over 80 ms, `frames` those of the worst call.
    """

    frames: int
    frames_dropped: int
    overruns: int
    stages: dict[Stage, StageTime]
    through_ms: float
    waited_p99_ms: float
    loop_lag_p99_ms: float


def caller_figures(measured: Measured, line: Scenario = STEADY, echoes: bool = True) -> CallerFigures:
    """Return the figures of calls over that line; `echoes` when the callers hear themselves."""
    reports = measured.reports
    latencies = [_latency(report) if echoes else Latency(()) for report in reports]
    windows = [window for latency in latencies for window in latency.windows]
    before_ms, after_ms = _around_ms(windows, line)
    snrs_db = (
        window_snr_db(report.said, report.heard, latency) for report, latency in zip(reports, latencies, strict=True)
    )
    return CallerFigures(
        calls=len(reports),
        first_sound_ms=worst([report.first_sound_s and report.first_sound_s * 1000 for report in reports]),
        p50_ms=median([latency.p50_ms for latency in latencies]),
        worst_p99_ms=worst([latency.p99_ms for latency in latencies]),
        before_ms=before_ms,
        after_ms=after_ms,
        snr_db=median([median(snr_db) for snr_db in snrs_db]),
        underruns=underruns_from(reports, 0.0),
        underruns_settled=underruns_from(reports, SETTLED_S),
        underruns_adapted=underruns_from(reports, ADAPTED_S),
        underruns_ours=_underruns_ours(reports),
        underrun_ms=sum(report.underrun_s for report in reports) * 1000,
        buffered_p50_ms=median([report.buffered_percentile_ms(50) for report in reports]),
        buffered_p99_ms=worst([report.buffered_percentile_ms(99) for report in reports]),
        seconds_said=sum(len(mouth_to_ear_ms(report.said, report.said).windows) for report in reports),
        seconds_heard=len(windows),
        cpu=measured.cpu,
        simulator_late_p99_ms=percentile_ms([late_s for report in reports for late_s in report.lateness_s], 99),
    )


def service_figures(records: Sequence[dict[str, Any]], loop_lag_p99_ms: float) -> ServiceFigures:
    """Return the figures of all frames in these records, and of the stages of those whose record has them."""
    counts = [record["counts"] for record in records]
    frames = [spans for record in records for spans in record["spans"] if len(spans) == len(Stage)]
    spans_ms = np.array([[span[1:] for span in spans] for spans in frames]).reshape(-1, len(Stage), 2) * 1000
    took_ms = {stage: spans_ms[:, at, 1] - spans_ms[:, at, 0] for at, stage in enumerate(Stage) if frames}
    waited_s = [step[1] - encode[2] for encode, step, _ in frames]
    return ServiceFigures(
        frames=min(int(count.get("frames_out", 0)) for count in counts),
        frames_dropped=sum(int(count.get("frames_dropped", 0)) for count in counts),
        overruns=sum(count.get("overruns", 0) for count in counts),
        stages={stage: StageTime(*map(float, np.percentile(took, [50, 99]))) for stage, took in took_ms.items()},
        through_ms=float(np.median(spans_ms[:, -1, 1] - spans_ms[:, 0, 0])) if frames else 0.0,
        waited_p99_ms=percentile_ms(waited_s, 99) or 0.0,
        loop_lag_p99_ms=loop_lag_p99_ms,
    )


def underruns_from(reports: Sequence[CallReport], moment_s: float) -> int:
    return sum(underrun.start_s >= moment_s for report in reports for underrun in report.underruns)


def _underruns_ours(reports: Sequence[CallReport]) -> int:
    counts = [(report.zero_s, stream.counts) for report in reports for stream in report.streams]
    sent = [
        (zero_s + at_s, late) for zero_s, one in counts for at_s, late in zip(one.sent_s, one.lateness_s, strict=True)
    ]
    sent_s, late_s = np.array(sorted(sent)).reshape(-1, 2).T

    def is_ours(report: CallReport, gap: Underrun) -> bool:
        ends_s = report.zero_s + gap.start_s + gap.length_s
        first, last = np.searchsorted(sent_s, (ends_s - AT_ONCE_S, ends_s + AT_ONCE_S))
        return gap.start_s >= ADAPTED_S and gap.length_s > float(late_s[first:last].max(initial=0.0))

    return sum(is_ours(report, gap) for report in reports for gap in report.underruns)


def median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _around_ms(windows: Sequence[LatencyWindow], line: Scenario) -> tuple[float | None, float | None]:
    if not line.troubles:
        return None, None
    over_s = line.troubles[-1].end_s + RECOVERY_S
    before = [one.latency_ms for one in windows if one.at_s < line.troubles[0].at_s - 1]
    return median(before), worst([one.latency_ms for one in windows if over_s <= one.at_s <= over_s + LOOK_S])


def _latency(report: CallReport) -> Latency:
    return mouth_to_ear_ms(report.said, report.heard, max_latency_s=MAX_LATENCY_S)


def _gaps(figures: CallerFigures) -> str:
    counts = f"{figures.underruns} ({figures.underruns_settled}, {figures.underruns_adapted})"
    return f"{counts}, {figures.underrun_ms:.1f} ms"


def _stage(time: StageTime | None) -> str:
    return f"{time.p50_ms:.1f} / {time.p99_ms:.1f} ms" if time else "–"


CALLER_ROWS: Rows[CallerFigures] = {
    "time to first sound": lambda f: ms(f.first_sound_ms),
    "mouth to ear, p50 / worst p99": lambda f: f"{ms(f.p50_ms)} / {ms(f.worst_p99_ms)}",
    "before the trouble, p50": lambda f: ms(f.before_ms),
    "2 s after it, at most": lambda f: ms(f.after_ms),
    "signal to noise": lambda f: db(f.snr_db),
    "gaps (after 1 s, 10 s)": _gaps,
    "gaps after 10 s, simulator on time": lambda f: str(f.underruns_ours),
    "buffered, p50 / p99": lambda f: f"{ms(f.buffered_p50_ms)} / {ms(f.buffered_p99_ms)}",
    "seconds recognised": lambda f: f"{f.seconds_heard} of {f.seconds_said}",
    "the simulator's lateness, p99": lambda f: ms(f.simulator_late_p99_ms),
    "CPU a call-second (app)": lambda f: f"{sum(f.cpu.values()):.4f} ({f.cpu['app']:.4f})",
}
SERVICE_ROWS: Rows[ServiceFigures] = {
    "frames (dropped)": lambda f: f"{f.frames} ({f.frames_dropped})",
    "encode, p50 / p99": lambda f: _stage(f.stages.get(Stage.ENCODE)),
    "step, p50 / p99": lambda f: _stage(f.stages.get(Stage.STEP)),
    "decode, p50 / p99": lambda f: _stage(f.stages.get(Stage.DECODE)),
    "one frame through all three": lambda f: ms(f.through_ms),
    "a frame's wait for its step, p99": lambda f: ms(f.waited_p99_ms),
    "frames with a stage over 80 ms": lambda f: str(f.overruns),
    "lag of the event loop, p99": lambda f: ms(f.loop_lag_p99_ms),
}
