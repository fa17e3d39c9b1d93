"""`moshi-bridge bench crowd`: many callers at once, at random phases, each hearing himself."""

import asyncio
import json
import platform
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from app.calls.records import RECORDS_WITH_SPANS
from app.cli.bench.line import LOOPBACK
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceFailed, ServiceProcess, start_service
from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.measure import mouth_to_ear_ms
from app.simulator.options import CallOptions
from app.simulator.report import CallReport, Outcome, percentile_ms
from app.twilio.events import RATE_HZ
from workers.gc_freeze import freeze_gc
from workers.messages import Stage

SETTLED_S = 10.0
ARRIVE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class CrowdFigures:
    """What so many callers heard; delays in milliseconds, CPU in processor seconds per second of one call.

    `late_p99_ms` is how late the simulator itself, which shares the cores, handed out its packets; `waited_p99_ms` how
    long an encoded frame waited for its step, `overruns` how many frames had a stage of more than 80 ms.
    """

    calls: int
    p50_ms: float
    worst_p99_ms: float
    underruns_settled: int
    app_cpu: float
    workers_cpu: float
    late_p99_ms: float
    waited_p99_ms: float
    overruns: int
    loop_lag_p99_ms: float


def bench_crowd(sizes: Sequence[int], seconds: float, step_ms: float, json_path: Path | None) -> int:
    """Run one crowd after the other, print the table, write the file; return the exit status."""
    console = Console()
    found: list[CrowdFigures] = []
    with tempfile.TemporaryDirectory() as folder:
        for calls in sizes:
            with console.status(f"{calls} calls of {seconds:.0f} s …"):
                try:
                    found.append(uvloop.run(_crowd(calls, seconds, step_ms, Path(folder) / "service.log")))
                except ServiceFailed as error:
                    console.print(f"[red]{error}[/]")
                    return 1
    console.print(_table(found))
    if json_path:
        figures = {"machine": platform.platform(), "crowds": [asdict(one) for one in found]}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


async def _crowd(calls: int, seconds: float, step_ms: float, log: Path) -> CrowdFigures:
    environment = {**LOOPBACK, "MAX_CALLS": str(calls), "LOOPBACK_STEP_MS": str(step_ms)}
    async with start_service(environment, log) as service:
        audio = np.resize(talk(), round(seconds * RATE_HZ))
        freeze_gc()
        before = service.cpu_s()
        reports = await asyncio.gather(*(_caller(service, audio) for _ in range(calls)))
        after = service.cpu_s()
        records = [await service.record(report.call_sid) for report in reports[-RECORDS_WITH_SPANS:]]
        lag = await service.loop_lag()
    if early := [report.sentence for report in reports if report.outcome is not Outcome.CALLER_HUNG_UP]:
        raise ServiceFailed(f"{len(early)} of {calls} calls ended early: {early[0]}")
    cpu = {name: (after[name] - before[name]) / seconds / calls for name in after}
    return _figures(reports, records, cpu, lag["p99_ms"])


async def _caller(service: ServiceProcess, audio: "np.ndarray[tuple[int], np.dtype[np.int16]]") -> CallReport:
    await asyncio.sleep(random.uniform(0, ARRIVE_WITHIN_S))  # noqa: S311 - at whatever phase
    return await simulate(CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=audio))


def _figures(
    reports: Sequence[CallReport], records: Sequence[dict[str, Any]], cpu: dict[str, float], lag_ms: float
) -> CrowdFigures:
    delays = [mouth_to_ear_ms(report.said, report.heard) for report in reports]
    late_s = [late for report in reports for stream in report.streams for late in stream.counts.lateness_s]
    return CrowdFigures(
        calls=len(reports),
        p50_ms=float(np.median([delay.p50_ms or np.nan for delay in delays])),
        worst_p99_ms=max(delay.p99_ms or np.inf for delay in delays),
        underruns_settled=sum(gap.start_s >= SETTLED_S for report in reports for gap in report.underruns),
        app_cpu=cpu["app"],
        workers_cpu=sum(used for name, used in cpu.items() if name != "app"),
        late_p99_ms=percentile_ms(late_s, 99) or 0.0,
        waited_p99_ms=percentile_ms(_waits_s(records), 99) or 0.0,
        overruns=sum(record["counts"].get("overruns", 0) for record in records),
        loop_lag_p99_ms=lag_ms,
    )


def _waits_s(records: Sequence[dict[str, Any]]) -> list[float]:
    """Return how long each frame waited between its encoding and its step."""
    frames = [spans for record in records for spans in record["spans"] if len(spans) == len(Stage)]
    return [step[1] - encode[2] for encode, step, _ in frames]


def _table(found: Sequence[CrowdFigures]) -> Table:
    caption = (
        "ms; gaps after 10 s; processor seconds per second of call; how late the simulator was, how long frames waited "
        "for their step, how long the event loop kept others waiting: p99"
    )
    table = Table(title="Callers at once, each hearing himself", caption=caption)
    headings = ("calls", "p50", "worst p99", "gaps", "app", "workers", "late", "waited", "overruns", "lag")
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in found:
        delays = [f"{value:.1f}" for value in (one.p50_ms, one.worst_p99_ms)]
        cpu = [f"{value:.4f}" for value in (one.app_cpu, one.workers_cpu)]
        waits = [f"{value:.1f}" for value in (one.late_p99_ms, one.waited_p99_ms)]
        rest = [*waits, str(one.overruns), f"{one.loop_lag_p99_ms:.1f}"]
        table.add_row(str(one.calls), *delays, str(one.underruns_settled), *cpu, *rest)
    return table
