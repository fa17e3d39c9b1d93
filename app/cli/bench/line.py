"""`moshi-bridge bench line` and `bench crowd`: simulated calls in real time to a service of their own, measured."""

import asyncio
import platform
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Column, Table

from app.calls.registry import RECORDS_WITH_SPANS
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
from app.cli.bench.output import write_json
from app.cli.options import EXIT_FAILED
from app.cli.service_process import LOOPBACK, ServiceFailed, ServiceProcess, start_service
from app.simulator.options import LegKind
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


def bench_line(
    environment: dict[str, str],
    seconds: float,
    json_path: Path | None,
    lines: Sequence[Scenario],
    legs: Sequence[LegKind],
) -> int:
    """Place one call for each scenario, of each leg at once, the callers talking without a pause; return the status."""

    async def measure(folder: Path) -> dict[str, MeasuredCalls]:
        measured: dict[str, MeasuredCalls] = {}
        async with start_service({**environment, "MAX_CALLS": str(len(legs))}, folder / "service.log") as service:
            for line in lines:
                loads = [Load(speech(_long_enough_s(seconds, line)), line=line, leg=leg) for leg in legs]
                measured |= await _measure_legs(service, loads, environment == LOOPBACK, line.name)
        return measured

    return run_bench("One simulated call, as the caller heard it", measure, environment, json_path)


def bench_crowd(
    sizes: Sequence[int], seconds: float, step_ms: float, json_path: Path | None, legs: Sequence[LegKind]
) -> int:
    """Place so many calls on each leg at once, one crowd after the other; return the exit status."""
    environment = {**LOOPBACK, "LOOPBACK_STEP_MS": str(step_ms)}

    async def measure(folder: Path) -> dict[str, MeasuredCalls]:
        measured: dict[str, MeasuredCalls] = {}
        for calls in sizes:
            loads = [Load(speech(seconds), calls, leg=leg) for leg in legs]
            async with start_service(
                {**environment, "MAX_CALLS": str(calls * len(legs))}, folder / "service.log"
            ) as service:
                measured |= await _measure_legs(service, loads, True, str(calls))
        return measured

    return run_bench("Callers at once, each hearing their own echo", measure, environment, json_path)


def run_bench(
    title: str,
    measure: Callable[[Path], Coroutine[Any, Any, dict[str, MeasuredCalls]]],
    environment: dict[str, str],
    json_path: Path | None,
) -> int:
    """Measure, with a folder for log files; show and write the figures. Return the exit status."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status("calling …"):
        try:
            calls = uvloop.run(measure(Path(folder)))
        except ServiceFailed as error:
            console.print(f"[red]{error}[/]")
            return EXIT_FAILED
    console.print(calls_table(title, calls))
    figures = {name: one.as_json() for name, one in calls.items()}
    write_json(json_path, {"machine": platform.platform(), "settings": environment, "calls": figures})
    return 0


async def _measure_legs(
    service: ServiceProcess, loads: Sequence[Load], echoes: bool, name: str
) -> dict[str, MeasuredCalls]:
    """Place all the calls at once; return them by that name, and by leg if there are several."""
    calls = await asyncio.gather(*(measure_calls(service, load, echoes) for load in loads))
    names = [name if len(loads) == 1 else f"{name} {load.leg}" for load in loads]
    return dict(zip(names, calls, strict=True))


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
    table = Table("", *(Column(name, justify="right") for name in columns), title=title)
    for label, write in CALLER_ROWS.items():
        table.add_row(label, *(write(calls.callers) for calls in columns.values()))
    for label, write_service in SERVICE_ROWS.items():
        table.add_row(label, *(write_service(calls.service) for calls in columns.values()))
    return table


def _long_enough_s(seconds: float, line: Scenario) -> float:
    return max([seconds, *(trouble.end_s + RECOVERY_S + LOOK_S + 1 for trouble in line.troubles)])
