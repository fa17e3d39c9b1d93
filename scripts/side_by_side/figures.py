"""What the calls were like, in figures. Without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.simulator.measure import Delay, mouth_to_ear_ms, window_snr_db
from app.simulator.report import CallReport, percentile_ms
from app.simulator.trouble import Window

MAX_DELAY_S = 3.0
SETTLED_S = 10.0
"""An underrun before this is the play-out finding its lead."""
AFTER_STALL_S = (2.0, 10.0)
"""When, counted from the end of a stall, the delay it has left behind is looked at."""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What so many callers heard; delays in milliseconds, `cpu` in processor seconds per second of one call.

    The median of the calls' median delays and signal-to-noise ratios, the worst of their 99th percentiles, the sum of
    their underruns. Of the `seconds_said` that were no pauses `seconds_heard` were recognised in what came back; the
    others are in no figure. `simulator_late_p99_ms` is how late the simulator itself sent its packets.
    """

    calls: int
    p50_ms: float | None
    p99_ms: float | None
    snr_db: float | None
    underruns: int
    underruns_settled: int
    underrun_ms: float
    seconds_said: int
    seconds_heard: int
    cpu: dict[str, float]
    simulator_late_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class StallFigures:
    """The delay before a stall, and by how much it was longer afterwards: the median second and the worst."""

    before_ms: float | None
    left_ms: float | None
    left_most_ms: float | None
    underruns: int


def crowd_figures(reports: Sequence[CallReport], cpu: dict[str, float]) -> LoadFigures:
    """Put together what all calls of a crowd were like."""
    delays = [_delay(report) for report in reports]
    gaps = [gap for report in reports for gap in report.underruns]
    late_s = [late for report in reports for stream in report.streams for late in stream.counts.lateness_s]
    return LoadFigures(
        calls=len(reports),
        p50_ms=_median([delay.p50_ms for delay in delays]),
        p99_ms=max((delay.p99_ms for delay in delays if delay.p99_ms is not None), default=None),
        snr_db=_median([_snr_db(report, delay) for report, delay in zip(reports, delays, strict=True)]),
        underruns=len(gaps),
        underruns_settled=sum(gap.start_s >= SETTLED_S for gap in gaps),
        underrun_ms=sum(gap.length_s for gap in gaps) * 1000,
        seconds_said=sum(len(mouth_to_ear_ms(report.said, report.said).windows) for report in reports),
        seconds_heard=sum(len(delay.windows) for delay in delays),
        cpu=cpu,
        simulator_late_p99_ms=percentile_ms(late_s, 99),
    )


def stall_figures(report: CallReport, stall: Window) -> StallFigures:
    """Compare the delay from 2 to 10 s after a stall with what it was before."""
    delay = _delay(report)
    before_ms = _median(_between(delay, 0.0, stall.at_s - 1.0))
    after = _between(delay, *(stall.end_s + after_s for after_s in AFTER_STALL_S))
    left = [ms - before_ms for ms in after] if before_ms is not None else []
    return StallFigures(before_ms, _median(left), max(left, default=None), len(report.underruns))


def _delay(report: CallReport) -> Delay:
    return mouth_to_ear_ms(report.said, report.heard, max_delay_s=MAX_DELAY_S)


def _snr_db(report: CallReport, delay: Delay) -> float | None:
    """Return the median over the seconds of the call: a gap, or a pause made shorter, spoils its own second alone."""
    return _median(list(window_snr_db(report.said, report.heard, delay)))


def _between(delay: Delay, from_s: float, to_s: float) -> list[float]:
    return [window.delay_ms for window in delay.windows if from_s <= window.at_s < to_s]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
