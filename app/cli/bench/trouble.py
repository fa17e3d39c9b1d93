"""The line under trouble, in virtual time: what the session makes of each scenario, as a table, JSON and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from app.simulator.trouble import Scenario
from app.simulator.virtual import VirtualReport, run_virtual

SETTLED_S = 10.0
RECOVERY_S = 2.0
LOOK_S = 5.0


def bench_trouble(scenarios: Sequence[Scenario], json_path: Path | None, picture: Path | None) -> int:
    """Run the scenarios, print the table, write what is asked for."""
    console = Console()
    reports = []
    for scenario in scenarios:
        with console.status(f"{scenario.name}: {scenario.seconds:.0f} s of a call …"):
            reports.append(run_virtual(scenario))
    console.print(_table(reports))
    if json_path:
        json_path.write_text(json.dumps([figures(report) for report in reports], indent=2) + "\n")
    if picture:
        draw(reports, picture)
    return 0


def figures(report: VirtualReport) -> dict[str, object]:
    """Return what a report comes down to; delays in milliseconds, `back_ms` two seconds after the last trouble."""
    scenario = report.scenario
    before_ms, back_ms = _around(report)
    return {
        "scenario": scenario.name,
        "seconds": scenario.seconds,
        "travel_ms": 2 * scenario.travel_s * 1000,
        "p50_ms": round(report.delay_ms(50), 1),
        "p99_ms": round(report.delay_ms(99), 1),
        "before_ms": before_ms,
        "back_ms": back_ms,
        "underruns_after_10_s": report.underruns_after(SETTLED_S),
        "counts": dict(report.record.counts),
    }


def _around(report: VirtualReport) -> tuple[float | None, float | None]:
    if not report.scenario.troubles:
        return None, None
    first, last = report.scenario.troubles[0], report.scenario.troubles[-1]
    back_s = last.end_s + RECOVERY_S
    return (
        round(report.delay_ms(50, first.at_s - LOOK_S, first.at_s - 0.2), 1),
        round(report.delay_ms(100, back_s, back_s + LOOK_S), 1),
    )


def _table(reports: Sequence[VirtualReport]) -> Table:
    table = Table(title="Mouth to ear in virtual time, the line's travel included")
    for heading in ("scenario", "length", "p50", "p99", "before", "2 s after", "gaps after 10 s"):
        table.add_column(heading, justify="left" if heading == "scenario" else "right")
    for report in reports:
        found = figures(report)
        delays = [_ms(found[name]) for name in ("p50_ms", "p99_ms", "before_ms", "back_ms")]
        gaps = str(found["underruns_after_10_s"])
        table.add_row(report.scenario.name, f"{report.scenario.seconds:.0f} s", *delays, gaps)
    return table


def _ms(value: object) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def draw(reports: Sequence[VirtualReport], path: Path) -> None:
    """Write delay and lead over time, a row a scenario, as a PNG."""
    size = (12, 1.6 * len(reports) + 1)
    figure, rows = plt.subplots(len(reports), 1, figsize=size, squeeze=False, layout="constrained")
    for report, (axes,) in zip(reports, rows, strict=True):
        axes.plot([one.spoken_s for one in report.heard], [one.delay_s * 1000 for one in report.heard], lw=0.9)
        axes.step(
            [at_s for at_s, _ in report.buffer_levels],
            [buffered_s * 1000 for _, buffered_s in report.buffer_levels],
            lw=0.7,
        )
        for trouble in report.scenario.troubles:
            axes.axvspan(trouble.at_s, trouble.end_s, color="red", alpha=0.15, linewidth=0)
        axes.set_ylim(0, 400)
        axes.set_xlim(0, report.scenario.seconds)
        axes.set_title(report.scenario.name, fontsize=8, loc="left")
    rows[0][0].legend(["mouth to ear, ms", "buffered, ms"], fontsize=7, ncols=2, loc="upper right")
    figure.savefig(path, dpi=100)
    plt.close(figure)
