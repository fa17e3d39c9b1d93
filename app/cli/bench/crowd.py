"""`moshi-bridge bench crowd`: many callers at once, at random phases, each hearing their own echo."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from app.calls.registry import RECORDS_WITH_SPANS
from app.cli.bench.calls import Load, place_calls, speech
from app.cli.bench.figures import CrowdFigures, crowd_figures
from app.cli.bench.output import Rows, comparison, ms, run_bench
from app.cli.service_process import LOOPBACK, start_service
from app.simulator.report import percentile_ms
from workers.messages import Stage


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """What the service measured: how long an encoded frame waited for its step, frames with a stage over 80 ms, lag."""

    callers: CrowdFigures
    waited_p99_ms: float
    overruns: int
    loop_lag_p99_ms: float


def bench_crowd(sizes: Sequence[int], seconds: float, step_ms: float, json_path: Path | None) -> int:
    """Run one crowd after the other; return the exit status."""

    async def measure(log: Path) -> list[ServiceFigures]:
        return [await _crowd(calls, seconds, step_ms, log) for calls in sizes]

    def show(console: Console, crowds: list[ServiceFigures]) -> dict[str, Any]:
        columns = {str(crowd.callers.calls): crowd for crowd in crowds}
        console.print(comparison("Callers at once, each hearing their own echo", columns, _ROWS))
        return {"crowds": [asdict(crowd) for crowd in crowds]}

    return run_bench(f"{', '.join(map(str, sizes))} calls of {seconds:.0f} s …", measure, show, json_path)


async def _crowd(calls: int, seconds: float, step_ms: float, log: Path) -> ServiceFigures:
    environment = {**LOOPBACK, "MAX_CALLS": str(calls), "LOOPBACK_STEP_MS": str(step_ms)}
    async with start_service(environment, log) as service:
        measured = await place_calls(service, Load(speech(seconds), calls))
        records = [await service.record(report.call_sid) for report in measured.reports[-RECORDS_WITH_SPANS:]]
        lag = await service.loop_lag()
    frames = [spans for record in records for spans in record["spans"] if len(spans) == len(Stage)]
    waited_s = [step[1] - encode[2] for encode, step, _ in frames]
    overruns = sum(record["counts"].get("overruns", 0) for record in records)
    return ServiceFigures(crowd_figures(measured), percentile_ms(waited_s, 99) or 0.0, overruns, lag["p99_ms"])


def _workers_cpu(figures: CrowdFigures) -> float:
    return sum(figures.cpu.values()) - figures.cpu["app"]


_ROWS: Rows[ServiceFigures] = {
    "mouth to ear, p50": lambda f: ms(f.callers.p50_ms),
    "p99 of the worst call": lambda f: ms(f.callers.worst_p99_ms),
    "gaps after 10 s": lambda f: str(f.callers.underruns_adapted),
    "CPU a call, app": lambda f: f"{f.callers.cpu['app']:.4f}",
    "CPU a call, workers": lambda f: f"{_workers_cpu(f.callers):.4f}",
    "the simulator's own lateness, p99": lambda f: ms(f.callers.simulator_late_p99_ms),
    "wait of a frame for its step, p99": lambda f: ms(f.waited_p99_ms),
    "frames with a stage over 80 ms": lambda f: str(f.overruns),
    "lag of the event loop, p99": lambda f: ms(f.loop_lag_p99_ms),
}
