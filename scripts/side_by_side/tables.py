"""The figures of all sides next to each other."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from scripts.side_by_side.figures import LoadFigures, StallFigures
from scripts.side_by_side.run import Findings

EXACT_DB = 100.0
"""A copy without a difference has a signal-to-noise ratio of the rounding of our own arithmetic."""
NOTHING = "–"


def table(found: Mapping[str, Findings], floor: str, stall_s: float) -> Table:
    """Return one column for each side, one block of rows for each number of calls at once and one for the stall.

    `floor` names the side whose CPU the others' is compared with.
    """
    sides = found.values()
    shown = Table("", title="The same caller, side by side")
    for name in found:
        shown.add_column(name, justify="right")
    for calls in sorted({calls for side in sides for calls in side.crowds}):
        crowds = [side.crowds.get(calls) for side in sides]
        lowest = found[floor].crowds.get(calls)
        _add_block(shown, f"{calls} call{'s' * (calls > 1)} at once", _CROWD, crowds)
        shown.add_row("CPU, times the floor's", *(_cpu(one, lowest) if one and lowest else NOTHING for one in crowds))
    _add_block(shown, f"after a stall of {stall_s:g} s", _STALL, [side.stall for side in sides])
    if any(side.failed for side in sides):
        shown.add_section()
        shown.add_row("not measured", *("\n".join(side.failed) for side in sides))
    return shown


def _add_block(shown: Table, title: str, rows: Mapping[str, Callable[[Any], str]], figures: list[Any]) -> None:
    shown.add_section()
    shown.add_row(f"[bold]{title}[/]")
    for label, show in rows.items():
        shown.add_row(label, *(NOTHING if one is None else show(one) for one in figures))


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f} ms"


def _db(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "exact" if value > EXACT_DB else f"{value:.1f} dB"


def _cpu(figures: LoadFigures, floor: LoadFigures | None = None) -> str:
    """Return the processor seconds, or how many times the floor's they are; without the workers as well."""
    unit = 1.0 if floor is None else max(_total(floor), 1e-9)
    digits = 4 if floor is None else 2
    total = f"{_total(figures) / unit:.{digits}f}"
    return total if len(figures.cpu) == 1 else f"{total} (app {figures.cpu['app'] / unit:.{digits}f})"


def _total(figures: LoadFigures) -> float:
    return sum(figures.cpu.values())


_CROWD: dict[str, Callable[[LoadFigures], str]] = {
    "mouth to ear, p50": lambda f: _ms(f.p50_ms),
    "p99 of the worst call": lambda f: _ms(f.p99_ms),
    "signal to noise": lambda f: _db(f.snr_db),
    "underruns (after 10 s)": lambda f: f"{f.underruns} ({f.underruns_settled}), {f.underrun_ms:.0f} ms",
    "seconds recognised": lambda f: f"{f.seconds_heard} of {f.seconds_said}",
    "simulator late, p99": lambda f: _ms(f.simulator_late_p99_ms),
    "CPU a call-second": _cpu,
}
_STALL: dict[str, Callable[[StallFigures], str]] = {
    "mouth to ear before, p50": lambda f: _ms(f.before_ms),
    "delay left 2-10 s later": lambda f: _ms(f.left_ms),
    "of that the worst second": lambda f: _ms(f.left_most_ms),
    "underruns": lambda f: str(f.underruns),
}
