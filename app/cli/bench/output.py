"""What all benches share: the table on the terminal, the figures in a file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

Figures = TypeVar("Figures")
Rows = Mapping[str, Callable[[Figures], str]]
"""A label, and how the figure is written."""


def write_json(path: Path | None, figures: object) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def db(value: float | None) -> str:
    """Return decibels; over 100 dB only our own arithmetic's rounding differs."""
    return "–" if value is None else "exact" if value > 100 else f"{value:.1f} dB"
