"""`moshi-bridge bench line` and `bench crowd`: simulated calls in real time to a service of their own, measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.calls.records import RECORDS_WITH_SPANS
from app.cli.bench.calls import Load, place_calls, speech
from app.cli.bench.figures import (
    CALLER_ROWS,
    LOOK_S,
    RECOVERY_S,
    SERVICE_ROWS,
    CallerFigures,
    ServiceFigures,
    caller_figures,
    service_figures,
)
from app.cli.bench.output import comparison, run_bench
from app.cli.service_process import LOOPBACK, ServiceProcess, start_service
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport
from app.simulator.trouble import Scenario


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
        console.print(calls_table("One simulated call, as the caller heard it", calls))
        return {"settings": environment, "calls": {name: call.as_json() for name, call in calls.items()}}

    return run_bench(f"{len(lines)} calls of {seconds:.0f} s or more …", measure, show, json_path)


def bench_crowd(sizes: Sequence[int], seconds: float, step_ms: float, json_path: Path | None) -> int:
    """Place so many calls at once, one crowd after the other; return the exit status."""

    async def measure(log: Path) -> dict[str, MeasuredCalls]:
        return {str(calls): await _crowd(calls, seconds, step_ms, log) for calls in sizes}

    def show(console: Console, crowds: dict[str, MeasuredCalls]) -> dict[str, Any]:
        console.print(calls_table("Callers at once, each hearing their own echo", crowds))
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


def calls_table(title: str, columns: Mapping[str, MeasuredCalls]) -> Table:
    """Return the figures of several calls or crowds side by side."""
    table = comparison(title, {name: calls.callers for name, calls in columns.items()}, CALLER_ROWS)
    for label, write in SERVICE_ROWS.items():
        table.add_row(label, *(write(calls.service) for calls in columns.values()))
    return table


async def _crowd(calls: int, seconds: float, step_ms: float, log: Path) -> MeasuredCalls:
    environment = {**LOOPBACK, "MAX_CALLS": str(calls), "LOOPBACK_STEP_MS": str(step_ms)}
    async with start_service(environment, log) as service:
        return await measure_calls(service, Load(speech(seconds), calls), echoes=True)


def _long_enough_s(seconds: float, line: Scenario) -> float:
    return max([seconds, *(trouble.end_s + RECOVERY_S + LOOK_S + 1 for trouble in line.troubles)])
