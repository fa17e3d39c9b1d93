"""`moshi-bridge bench line` and `bench crowd`: simulated calls in real time to a service of their own, measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.calls.records import RECORDS_WITH_SPANS
from app.cli.bench.calls import Load, place_calls, speech
from app.cli.bench.figures import (
    LOOK_S,
    RECOVERY_S,
    CallerFigures,
    ServiceFigures,
    StageTime,
    caller_figures,
    service_figures,
)
from app.cli.bench.output import Rows, comparison, db, ms, run_bench
from app.cli.service_process import LOOPBACK, ServiceProcess, start_service
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport
from app.simulator.trouble import Scenario
from workers.messages import Stage


@dataclass(frozen=True, slots=True)
class MeasuredCalls:
    """Calls to our service; `records` are those of the last calls."""

    reports: list[CallReport]
    records: list[dict[str, Any]]
    callers: CallerFigures
    service: ServiceFigures

    def as_json(self) -> dict[str, Any]:
        return asdict(self.callers) | asdict(self.service)


def bench_line(environment: dict[str, str], seconds: float, json_path: Path | None, lines: Sequence[Scenario]) -> int:
    """Place one call for each scenario, the caller talking without a pause; return the exit status."""

    async def measure(log: Path) -> dict[str, MeasuredCalls]:
        loads = {line.name: Load(speech(_long_enough_s(seconds, line)), line=line) for line in lines}
        async with start_service(environment, log) as service:
            return {name: await measure_calls(service, load, environment == LOOPBACK) for name, load in loads.items()}

    def show(console: Console, calls: dict[str, MeasuredCalls]) -> dict[str, Any]:
        console.print(line_table(calls))
        for name, call in calls.items():
            used = ", ".join(f"{process} {cpu:.4f}" for process, cpu in call.callers.cpu.items())
            console.print(f"{name}, processor seconds per second of call: {used}", highlight=False)
        return {"settings": environment, "calls": {name: call.as_json() for name, call in calls.items()}}

    return run_bench(f"{len(lines)} calls of {seconds:.0f} s or more …", measure, show, json_path)


def bench_crowd(sizes: Sequence[int], seconds: float, step_ms: float, json_path: Path | None) -> int:
    """Place so many calls at once, one crowd after the other; return the exit status."""

    async def measure(log: Path) -> dict[str, MeasuredCalls]:
        return {str(calls): await _crowd(calls, seconds, step_ms, log) for calls in sizes}

    def show(console: Console, crowds: dict[str, MeasuredCalls]) -> dict[str, Any]:
        console.print(comparison("Callers at once, each hearing their own echo", crowds, _CROWD))
        return {"crowds": [crowd.as_json() for crowd in crowds.values()]}

    return run_bench(f"{', '.join(map(str, sizes))} calls of {seconds:.0f} s …", measure, show, json_path)


async def measure_calls(
    service: ServiceProcess, load: Load, echoes: bool, on_progress: OnProgress = ignore_progress
) -> MeasuredCalls:
    """Place the calls. Raises ServiceFailed unless all last until the caller hangs up."""
    measured = await place_calls(service, load, on_progress)
    records = [await service.record(report.call_sid) for report in measured.reports[-RECORDS_WITH_SPANS:]]
    lag_p99_ms = (await service.get("/api/loop"))["p99_ms"]
    callers = caller_figures(measured, load.line, echoes)
    return MeasuredCalls(measured.reports, records, callers, service_figures(records, lag_p99_ms))


def line_table(columns: dict[str, MeasuredCalls]) -> Table:
    return comparison("One simulated call, as the caller heard it", columns, _LINE)


async def _crowd(calls: int, seconds: float, step_ms: float, log: Path) -> MeasuredCalls:
    environment = {**LOOPBACK, "MAX_CALLS": str(calls), "LOOPBACK_STEP_MS": str(step_ms)}
    async with start_service(environment, log) as service:
        return await measure_calls(service, Load(speech(seconds), calls), echoes=True)


def _long_enough_s(seconds: float, line: Scenario) -> float:
    return max([seconds, *(trouble.end_s + RECOVERY_S + LOOK_S + 1 for trouble in line.troubles)])


def _gaps(figures: CallerFigures) -> str:
    counts = f"{figures.underruns} ({figures.underruns_settled}, {figures.underruns_adapted})"
    return f"{counts}, {figures.underrun_ms:.1f} ms"


def _stage(time: StageTime | None) -> str:
    return f"{time.p50_ms:.1f} / {time.p99_ms:.1f} ms" if time else "–"


_LINE: Rows[MeasuredCalls] = {
    "time to first sound": lambda m: ms(m.callers.first_sound_ms),
    "mouth to ear, p50 / p99": lambda m: f"{ms(m.callers.p50_ms)} / {ms(m.callers.worst_p99_ms)}",
    "before the trouble, p50": lambda m: ms(m.callers.before_ms),
    "2 s after it, at most": lambda m: ms(m.callers.after_ms),
    "signal to noise": lambda m: db(m.callers.snr_db),
    "gaps (after 1 s, 10 s)": lambda m: _gaps(m.callers),
    "buffered, p50 / p99": lambda m: f"{ms(m.callers.buffered_p50_ms)} / {ms(m.callers.buffered_p99_ms)}",
    "frames (dropped)": lambda m: f"{m.service.frames} ({m.service.frames_dropped})",
    "encode, p50 / p99": lambda m: _stage(m.service.stages.get(Stage.ENCODE)),
    "step, p50 / p99": lambda m: _stage(m.service.stages.get(Stage.STEP)),
    "decode, p50 / p99": lambda m: _stage(m.service.stages.get(Stage.DECODE)),
    "one frame through all three": lambda m: ms(m.service.through_ms),
    "time per frame (the largest)": lambda m: ms(max((t.p50_ms for t in m.service.stages.values()), default=0.0)),
    "the simulator's own lateness, p99": lambda m: ms(m.callers.simulator_late_p99_ms),
}
_CROWD: Rows[MeasuredCalls] = {
    "mouth to ear, p50": lambda m: ms(m.callers.p50_ms),
    "p99 of the worst call": lambda m: ms(m.callers.worst_p99_ms),
    "gaps after 10 s": lambda m: str(m.callers.underruns_adapted),
    "CPU a call, app": lambda m: f"{m.callers.cpu['app']:.4f}",
    "CPU a call, workers": lambda m: f"{sum(m.callers.cpu.values()) - m.callers.cpu['app']:.4f}",
    "the simulator's own lateness, p99": lambda m: ms(m.callers.simulator_late_p99_ms),
    "wait of a frame for its step, p99": lambda m: ms(m.service.waited_p99_ms),
    "frames with a stage over 80 ms": lambda m: str(m.service.overruns),
    "lag of the event loop, p99": lambda m: ms(m.service.loop_lag_p99_ms),
}
