"""`moshi-bridge bench trouble`: the rules of a call under each scenario, in virtual time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.bench.figures import ADAPTED_S, LOOK_S, RECOVERY_S
from app.cli.bench.output import Rows, ms, write_json
from app.cli.plots import draw_virtual
from app.simulator.trouble import Scenario
from app.simulator.virtual import VirtualReport, run_virtual


def bench_trouble(scenarios: Sequence[Scenario], json_path: Path | None, picture: Path | None) -> None:
    console = Console()
    reports = []
    for scenario in scenarios:
        with console.status(f"{scenario.name}: {scenario.seconds:.0f} s of a call …"):
            reports.append(run_virtual(scenario))
    found = {report.scenario.name: _figures(report) for report in reports}
    table = Table("scenario", *_COLUMNS, title="Mouth to ear in virtual time, the line's travel included")
    for name, figures in found.items():
        table.add_row(name, *(write(figures) for write in _COLUMNS.values()))
    console.print(table)
    write_json(json_path, [{"scenario": name, **figures} for name, figures in found.items()])
    if picture:
        draw_virtual(reports, picture)


def _figures(report: VirtualReport) -> dict[str, Any]:
    """Return latencies in ms; `back_ms` is the largest in five seconds, two seconds after the last trouble."""
    before_ms = back_ms = None
    if troubles := report.scenario.troubles:
        first_s, back_s = troubles[0].at_s, troubles[-1].end_s + RECOVERY_S
        before_ms = report.latency_ms(50, first_s - LOOK_S, first_s - 0.2)
        back_ms = report.latency_ms(100, back_s, back_s + LOOK_S)
    return {
        "seconds": report.scenario.seconds,
        "travel_ms": 2 * report.scenario.travel_s * 1000,
        "p50_ms": report.latency_ms(50),
        "p99_ms": report.latency_ms(99),
        "before_ms": before_ms,
        "back_ms": back_ms,
        "underruns_after_10_s": report.underruns_after(ADAPTED_S),
        "counts": dict(report.record.counts),
    }


_COLUMNS: Rows[dict[str, Any]] = {
    "length": lambda f: f"{f['seconds']:.0f} s",
    "p50": lambda f: ms(f["p50_ms"]),
    "p99": lambda f: ms(f["p99_ms"]),
    "before": lambda f: ms(f["before_ms"]),
    "2 s after": lambda f: ms(f["back_ms"]),
    "gaps after 10 s": lambda f: str(f["underruns_after_10_s"]),
}
