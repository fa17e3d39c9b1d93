"""What was found of each server, and the figures next to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.table import Table

from app.cli.bench.figures import CALLER_ROWS, CallerFigures

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
        for label, write in CALLER_ROWS.items():
            shown.add_row(label, *(NOTHING if one is None else write(one) for one in figures))
        shown.add_row(
            "CPU, times the floor's", *(_times(one, lowest) if one and lowest else NOTHING for one in figures)
        )
    if any(server.failed for server in servers):
        shown.add_section()
        shown.add_row("not measured", *("\n".join(server.failed) for server in servers))
    return shown


def _times(figures: CallerFigures, floor: CallerFigures) -> str:
    """Return how many times the floor's processor seconds these are, in brackets without the workers."""
    unit = max(sum(floor.cpu.values()), 1e-9)
    return f"{sum(figures.cpu.values()) / unit:.2f} ({figures.cpu['app'] / unit:.2f})"
