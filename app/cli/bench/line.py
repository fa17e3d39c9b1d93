"""`moshi-bridge bench line`: one simulated call to a service of its own, measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.bench.calls import Load, place_calls, speech
from app.cli.bench.figures import LOOK_S, RECOVERY_S, CallFigures, call_figures
from app.cli.bench.output import Rows, comparison, db, ms, run_bench
from app.cli.service_process import LOOPBACK, ServiceProcess, start_service
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport
from app.simulator.trouble import STEADY, Scenario
from workers.messages import Stage


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """One call; `cpu` is the processor seconds per second of call of each process."""

    report: CallReport
    record: dict[str, Any]
    figures: CallFigures
    cpu: dict[str, float]


def bench_line(
    environment: dict[str, str], seconds: float, json_path: Path | None, lines: Sequence[Scenario] = (STEADY,)
) -> int:
    """Place one call for each scenario, the caller talking without a pause; return the exit status."""

    async def measure(log: Path) -> dict[str, MeasuredCall]:
        async with start_service(environment, log) as service:
            loads = {line.name: Load(speech(_long_enough_s(seconds, line)), line=line) for line in lines}
            return {name: await measure_call(service, load, environment == LOOPBACK) for name, load in loads.items()}

    def show(console: Console, calls: dict[str, MeasuredCall]) -> dict[str, Any]:
        console.print(line_table({name: call.figures for name, call in calls.items()}))
        for name, call in calls.items():
            used = ", ".join(f"{process} {cpu:.4f}" for process, cpu in call.cpu.items())
            console.print(f"{name}, processor seconds per second of call: {used}", highlight=False)
        figures = {name: {**asdict(call.figures), "cpu": call.cpu} for name, call in calls.items()}
        return {"settings": environment, "calls": figures}

    return run_bench(f"{len(lines)} calls of {seconds:.0f} s or more …", measure, show, json_path)


async def measure_call(
    service: ServiceProcess, load: Load, echoes: bool, on_progress: OnProgress = ignore_progress
) -> MeasuredCall:
    """Place one call. Raises ServiceFailed if it does not last until the caller hangs up."""
    measured = await place_calls(service, load, on_progress)
    [report] = measured.reports
    record = await service.record(report.call_sid)
    return MeasuredCall(report, record, call_figures(report, record, echoes, load.line), measured.cpu)


def line_table(columns: dict[str, CallFigures]) -> Table:
    """Return the figures of several calls side by side."""
    return comparison("One simulated call, as the caller heard it", columns, _ROWS)


def _long_enough_s(seconds: float, line: Scenario) -> float:
    return max([seconds, *(trouble.end_s + RECOVERY_S + LOOK_S + 1 for trouble in line.troubles)])


def _stage(figures: CallFigures, stage: Stage) -> str:
    time = figures.stages.get(stage)
    return f"{time.p50_ms:.1f} / {time.p99_ms:.1f} ms" if time else "–"


_ROWS: Rows[CallFigures] = {
    "time to first sound": lambda f: ms(f.first_sound_ms),
    "mouth to ear, p50 / p99": lambda f: f"{ms(f.mouth_to_ear_p50_ms)} / {ms(f.mouth_to_ear_p99_ms)}",
    "before the trouble, p50": lambda f: ms(f.before_ms),
    "2 s after it, at most": lambda f: ms(f.after_ms),
    "signal to noise": lambda f: db(f.snr_db),
    "gaps (after 1 s, 10 s)": lambda f: (
        f"{f.underruns} ({f.underruns_settled}, {f.underruns_adapted}), {f.underrun_ms:.1f} ms"
    ),
    "buffered, p50 / p99": lambda f: f"{ms(f.buffered_p50_ms)} / {ms(f.buffered_p99_ms)}",
    "frames (dropped)": lambda f: f"{f.frames} ({f.frames_dropped})",
    "encode, p50 / p99": lambda f: _stage(f, Stage.ENCODE),
    "step, p50 / p99": lambda f: _stage(f, Stage.STEP),
    "decode, p50 / p99": lambda f: _stage(f, Stage.DECODE),
    "one frame through all three": lambda f: ms(f.through_ms),
    "time per frame (the largest)": lambda f: ms(max((time.p50_ms for time in f.stages.values()), default=0.0)),
    "the simulator's own lateness, p99": lambda f: ms(f.simulator_late_p99_ms),
}
