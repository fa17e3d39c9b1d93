"""`moshi-bridge bench line`: one simulated call to a service of its own, measured."""

import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from app.cli.bench.figures import LOOK_S, RECOVERY_S, LineFigures, figures_of
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceFailed, ServiceProcess, start_service
from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.options import CallOptions
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import STEADY, Scenario
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.gc_freeze import freeze_gc

LOOPBACK = {"ENGINE": "loopback", "CODEC": "loopback"}


@dataclass(frozen=True, slots=True)
class LineRun:
    """One measured call, with the processor seconds per second of call that each process took."""

    report: CallReport
    record: dict[str, Any]
    figures: LineFigures
    cpu: dict[str, float]


async def run_line(
    environment: dict[str, str], seconds: float, log: Path, lines: Sequence[Scenario] = (STEADY,)
) -> dict[str, LineRun]:
    """Place one call after the other to a service with these settings, by scenario; the caller talks all the time."""
    async with start_service(environment, log) as service:
        runs = {}
        for line in lines:
            audio = np.resize(talk(), round(_long_enough_s(seconds, line) * RATE_HZ))
            runs[line.name] = await measure_call(service, audio, environment == LOOPBACK, ignore_progress, line)
        return runs


def _long_enough_s(seconds: float, line: Scenario) -> float:
    return max([seconds, *(trouble.end_s + RECOVERY_S + LOOK_S + 1 for trouble in line.troubles)])


async def measure_call(
    service: ServiceProcess, audio: Samples, echoes: bool, on_progress: OnProgress, line: Scenario = STEADY
) -> LineRun:
    """Place one call to a running service. Raises ServiceFailed if it does not last until the caller hangs up."""
    options = CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=audio, line=line)
    freeze_gc()
    before = service.cpu_s()
    report = await simulate(options, on_progress)
    after = service.cpu_s()
    if report.outcome is not Outcome.CALLER_HUNG_UP:
        raise ServiceFailed(f"the call ended early: {report.outcome}, {report.sentence}")
    record = await service.record(report.call_sid)
    cpu = {name: (used - before.get(name, 0.0)) / report.ended_s for name, used in after.items()}
    return LineRun(report, record, figures_of(report, record, echoes, line), cpu)


def bench_line(
    environment: dict[str, str], seconds: float, json_path: Path | None, lines: Sequence[Scenario] = (STEADY,)
) -> int:
    """Run, print the table, write the file; return the exit status."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status(f"{len(lines)} calls of {seconds:.0f} s or more …"):
        try:
            runs = uvloop.run(run_line(environment, seconds, Path(folder) / "service.log", lines))
        except ServiceFailed as error:
            console.print(f"[red]{error}[/]")
            return 1
    console.print(line_table({name: run.figures for name, run in runs.items()}))
    for name, run in runs.items():
        used = ", ".join(f"{process} {cpu:.4f}" for process, cpu in run.cpu.items())
        console.print(f"{name}, processor seconds per second of call: {used}", highlight=False)
    if json_path:
        calls = {name: {**run.figures.as_json(), "cpu": run.cpu} for name, run in runs.items()}
        figures = {"machine": platform.platform(), "settings": environment, "calls": calls}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def line_table(columns: dict[str, LineFigures]) -> Table:
    """Return the figures of several calls side by side."""
    table = Table("", *columns, title="One simulated call, as the caller heard it")
    for label, show in _ROWS.items():
        table.add_row(label, *(show(figures) for figures in columns.values()))
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _stage(figures: LineFigures, stage: str) -> str:
    time = next((time for name, time in figures.stages.items() if name == stage), None)
    return f"{time.p50_ms:.1f} / {time.p99_ms:.1f} ms" if time else "–"


_ROWS: dict[str, Callable[[LineFigures], str]] = {
    "time to first sound": lambda f: _ms(f.first_sound_ms),
    "mouth to ear, p50": lambda f: _ms(f.mouth_to_ear_p50_ms),
    "mouth to ear, p99": lambda f: _ms(f.mouth_to_ear_p99_ms),
    "before the trouble, p50": lambda f: _ms(f.before_ms),
    "2 s after it, at most": lambda f: _ms(f.after_ms),
    "signal to noise": lambda f: "–" if f.snr_db is None else f"{f.snr_db:.1f} dB",
    "underruns (after 1 s, 10 s)": lambda f: (
        f"{f.underruns} ({f.underruns_settled}, {f.underruns_learnt}), {f.underrun_ms:.1f} ms"
    ),
    "buffered, p50 / p99": lambda f: f"{_ms(f.buffered_p50_ms)} / {_ms(f.buffered_p99_ms)}",
    "frames (dropped)": lambda f: f"{f.frames} ({f.frames_dropped})",
    "encode, p50 / p99": lambda f: _stage(f, "encode"),
    "step, p50 / p99": lambda f: _stage(f, "step"),
    "decode, p50 / p99": lambda f: _stage(f, "decode"),
    "one frame through all three": lambda f: _ms(f.through_ms),
    "time per frame (the largest)": lambda f: _ms(f.frame_ms),
    "the simulator's own lateness, p99": lambda f: _ms(f.simulator_late_p99_ms),
}
