"""What was found of each server, and the figures next to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich.table import Table

from app.cli.bench.figures import MAX_DELAY_S, CallerFigures, median, worst
from app.cli.bench.output import Rows, db, ms
from app.simulator.measure import mouth_to_ear_ms
from app.simulator.report import CallReport
from app.simulator.trouble import Window

Figures = TypeVar("Figures")
NOTHING = "–"
AFTER_STALL_S = (2.0, 10.0)
"""When, counted from the end of a stall, the latency that it has left is measured."""


@dataclass(frozen=True, slots=True)
class StallFigures:
    """The latency before a stall, and by how much it was longer afterwards: the median second and the worst."""

    before_ms: float | None
    left_ms: float | None
    left_most_ms: float | None
    underruns: int


@dataclass
class Findings:
    """What is known of one server, by calls at once; `failed` says what could not be measured and why."""

    crowds: dict[int, CallerFigures] = field(default_factory=dict)
    stall: StallFigures | None = None
    failed: list[str] = field(default_factory=list)


def stall_figures(report: CallReport, stall: Window) -> StallFigures:
    """Compare the latency from 2 to 10 s after a stall with what it was before."""
    windows = mouth_to_ear_ms(report.said, report.heard, max_delay_s=MAX_DELAY_S).windows
    before_ms = median([one.delay_ms for one in windows if one.at_s < stall.at_s - 1.0])
    from_s, to_s = (stall.end_s + after_s for after_s in AFTER_STALL_S)
    after = [one.delay_ms for one in windows if from_s <= one.at_s < to_s]
    left = [delay_ms - before_ms for delay_ms in after] if before_ms is not None else []
    return StallFigures(before_ms, median(left), worst(left), len(report.underruns))


def table(found: Mapping[str, Findings], floor: str, stall_s: float) -> Table:
    """Return a column for each server, a block of rows for each number of calls at once and one for the stall.

    `floor` names the server with whose CPU that of the others is compared.
    """
    servers = found.values()
    shown = Table("", title="The same caller, side by side")
    for name in found:
        shown.add_column(name, justify="right")
    for calls in sorted({calls for server in servers for calls in server.crowds}):
        crowds = [server.crowds.get(calls) for server in servers]
        lowest = found[floor].crowds.get(calls)
        _add_block(shown, f"{calls} call{'s' * (calls > 1)} at once", _CROWD, crowds)
        shown.add_row("CPU, times the floor's", *(_cpu(one, lowest) if one and lowest else NOTHING for one in crowds))
    _add_block(shown, f"after a stall of {stall_s:g} s", _STALL, [server.stall for server in servers])
    if any(server.failed for server in servers):
        shown.add_section()
        shown.add_row("not measured", *("\n".join(server.failed) for server in servers))
    return shown


def _add_block(shown: Table, title: str, rows: Rows[Figures], figures: Sequence[Figures | None]) -> None:
    shown.add_section()
    shown.add_row(f"[bold]{title}[/]")
    for label, write in rows.items():
        shown.add_row(label, *(NOTHING if one is None else write(one) for one in figures))


def _cpu(figures: CallerFigures, floor: CallerFigures | None = None) -> str:
    """Return the processor seconds, or how many times the floor's they are; without the workers as well."""
    unit, digits = (max(sum(floor.cpu.values()), 1e-9), 2) if floor else (1.0, 4)
    total = f"{sum(figures.cpu.values()) / unit:.{digits}f}"
    return total if len(figures.cpu) == 1 else f"{total} (app {figures.cpu['app'] / unit:.{digits}f})"


_CROWD: Rows[CallerFigures] = {
    "mouth to ear, p50": lambda f: ms(f.p50_ms),
    "p99 of the worst call": lambda f: ms(f.worst_p99_ms),
    "signal to noise": lambda f: db(f.snr_db),
    "gaps (after 10 s)": lambda f: f"{f.underruns} ({f.underruns_adapted}), {f.underrun_ms:.0f} ms",
    "seconds recognised": lambda f: f"{f.seconds_heard} of {f.seconds_said}",
    "simulator late, p99": lambda f: ms(f.simulator_late_p99_ms),
    "CPU a call-second": _cpu,
}
_STALL: Rows[StallFigures] = {
    "mouth to ear before, p50": lambda f: ms(f.before_ms),
    "latency left 2-10 s later": lambda f: ms(f.left_ms),
    "of that the worst second": lambda f: ms(f.left_most_ms),
    "gaps": lambda f: str(f.underruns),
}
