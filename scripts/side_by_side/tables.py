"""What was found of each server, and the figures next to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.table import Table

from app.cli.bench.figures import CallerFigures
from app.cli.bench.output import Rows, db, ms

NOTHING = "–"


@dataclass
class Findings:
    """The figures of one server by the title of the load; `failed` says what could not be measured and why."""

    figures: dict[str, CallerFigures] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def table(found: Mapping[str, Findings], floor: str) -> Table:
    """Return a column for each server and a block of rows for each load.

    `floor` names the server with whose CPU that of the others is compared.
    """
    servers = found.values()
    shown = Table("", title="The same caller, side by side")
    for name in found:
        shown.add_column(name, justify="right")
    for title in dict.fromkeys(title for server in servers for title in server.figures):
        figures, lowest = [server.figures.get(title) for server in servers], found[floor].figures.get(title)
        shown.add_section()
        shown.add_row(f"[bold]{title}[/]")
        for label, write in _ROWS.items():
            shown.add_row(label, *(NOTHING if one is None else write(one) for one in figures))
        shown.add_row("CPU, times the floor's", *(_cpu(one, lowest) if one and lowest else NOTHING for one in figures))
    if any(server.failed for server in servers):
        shown.add_section()
        shown.add_row("not measured", *("\n".join(server.failed) for server in servers))
    return shown


def _cpu(figures: CallerFigures, floor: CallerFigures | None = None) -> str:
    """Return the processor seconds, or how many times the floor's they are; without the workers as well."""
    unit, digits = (max(sum(floor.cpu.values()), 1e-9), 2) if floor else (1.0, 4)
    total = f"{sum(figures.cpu.values()) / unit:.{digits}f}"
    return total if len(figures.cpu) == 1 else f"{total} (app {figures.cpu['app'] / unit:.{digits}f})"


_ROWS: Rows[CallerFigures] = {
    "mouth to ear, p50": lambda f: ms(f.p50_ms),
    "p99 of the worst call": lambda f: ms(f.worst_p99_ms),
    "before the stall, p50": lambda f: ms(f.before_ms),
    "2 s after it, at most": lambda f: ms(f.after_ms),
    "signal to noise": lambda f: db(f.snr_db),
    "gaps (after 10 s)": lambda f: f"{f.underruns} ({f.underruns_adapted}), {f.underrun_ms:.0f} ms",
    "seconds recognised": lambda f: f"{f.seconds_heard} of {f.seconds_said}",
    "simulator late, p99": lambda f: ms(f.simulator_late_p99_ms),
    "CPU a call-second": _cpu,
}
