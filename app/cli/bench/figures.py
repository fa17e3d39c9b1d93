"""The figures of one simulated call: the caller's side from the simulator, the stages from the service's record."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.simulator.measure import Delay, mouth_to_ear_ms, window_snr_db
from app.simulator.report import CallReport
from app.simulator.trouble import STEADY, Scenario
from workers.messages import Stage

RECOVERY_S = 2.0
LOOK_S = 5.0
SETTLED_S = 1.0
"""An underrun before this is the play-out filling its buffer."""
LEARNT_S = 10.0
"""From then on the play-out knows the line's habits."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage took for a frame, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class LineFigures:
    """One call. Delays are None where the caller does not hear himself (see `mouth_to_ear_ms`)."""

    seconds: float
    first_sound_ms: float | None
    mouth_to_ear_p50_ms: float | None
    mouth_to_ear_p99_ms: float | None
    snr_db: float | None
    underruns: int
    underruns_settled: int
    underruns_learnt: int
    underrun_ms: float
    buffered_p50_ms: float | None
    buffered_p99_ms: float | None
    frames: int
    frames_dropped: int
    simulator_late_p99_ms: float | None
    stages: dict[Stage, StageTime]
    frame_ms: float
    """Time between frames as they come out of the workers when all of them are busy: the largest of the stages."""
    through_ms: float
    """Time of one frame through all stages: their sum."""
    before_ms: float | None = None
    """Median mouth-to-ear delay before the line's first trouble; None without one."""
    after_ms: float | None = None
    """The largest in the five seconds that begin two seconds after its last."""

    def as_json(self) -> dict[str, Any]:
        """Return all of it for a file."""
        return asdict(self)


def figures_of(report: CallReport, record: dict[str, Any], echoes: bool, line: Scenario = STEADY) -> LineFigures:
    """Put the figures of a call over that line together; `echoes` when the caller hears himself."""
    delay = mouth_to_ear_ms(report.said, report.heard) if echoes else None
    before_ms, after_ms = around_ms(delay, line) if delay else (None, None)
    spans = np.array(
        [[(began, ended) for _, began, ended in frame] for frame in record["spans"] if len(frame) == len(Stage)]
    ).reshape(-1, len(Stage), 2)
    stages = stage_times(spans)
    return LineFigures(
        seconds=report.ended_s,
        first_sound_ms=None if report.first_sound_s is None else report.first_sound_s * 1000,
        mouth_to_ear_p50_ms=delay.p50_ms if delay else None,
        mouth_to_ear_p99_ms=delay.p99_ms if delay else None,
        snr_db=_snr_db(report, delay) if delay else None,
        underruns=len(report.underruns),
        underruns_settled=_underruns_from(report, SETTLED_S),
        underruns_learnt=_underruns_from(report, LEARNT_S),
        underrun_ms=report.underrun_s * 1000,
        buffered_p50_ms=report.buffered_percentile_ms(50),
        buffered_p99_ms=report.buffered_percentile_ms(99),
        frames=int(record["counts"].get("frames_out", 0)),
        frames_dropped=int(record["counts"].get("frames_dropped", 0)),
        simulator_late_p99_ms=report.lateness_percentile_ms(99),
        stages=stages,
        before_ms=before_ms,
        after_ms=after_ms,
        frame_ms=max((stage.p50_ms for stage in stages.values()), default=0.0),
        through_ms=float(np.median(spans[:, -1, 1] - spans[:, 0, 0])) * 1000 if len(spans) else 0.0,
    )


def around_ms(delay: Delay, line: Scenario) -> tuple[float | None, float | None]:
    """Return the median delay before the first trouble, and the largest in five seconds, two seconds after the last."""
    if not line.troubles:
        return None, None
    first_s, over_s = line.troubles[0].at_s, line.troubles[-1].end_s + RECOVERY_S
    before = [one.delay_ms for one in delay.windows if one.at_s < first_s - 1]
    after = [one.delay_ms for one in delay.windows if over_s <= one.at_s <= over_s + LOOK_S]
    return (float(np.median(before)) if before else None), max(after, default=None)


def stage_times(spans: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[Stage, StageTime]:
    """Return the time of each stage; `spans` has the shape (frames, 3, 2): began and ended, in seconds."""
    if not len(spans):
        return {}
    took_ms = (spans[:, :, 1] - spans[:, :, 0]) * 1000
    return {
        stage: StageTime(*(float(value) for value in np.percentile(took_ms[:, place], [50, 99])))
        for place, stage in enumerate(Stage)
    }


def _underruns_from(report: CallReport, moment_s: float) -> int:
    return sum(underrun.start_s >= moment_s for underrun in report.underruns)


def _snr_db(report: CallReport, delay: Delay) -> float | None:
    """Return the median signal-to-noise ratio of all seconds: one in which the play-out moved says nothing."""
    windows = window_snr_db(report.said, report.heard, delay)
    return float(np.median(windows)) if windows else None
