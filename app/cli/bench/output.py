"""What all benches share: the table on the terminal, the figures in a file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from rich.table import Table

Figures = TypeVar("Figures")
Rows = Mapping[str, Callable[[Figures], str]]
"""A label, and how the figure is written."""


def write_json(path: Path | None, figures: object) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def comparison(title: str, columns: Mapping[str, Figures], rows: Rows[Figures]) -> Table:
    """Return a table with one column for each of `columns` and one row for each figure."""
    table = Table("", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    for label, write in rows.items():
        table.add_row(label, *(write(figures) for figures in columns.values()))
    return table


def ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def db(value: float | None) -> str:
    """Return decibels; over 100 dB only our own arithmetic's rounding differs."""
    return "–" if value is None else "exact" if value > 100 else f"{value:.1f} dB"
