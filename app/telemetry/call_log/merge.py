"""One call of what several runs of the service have kept of it.

A call that comes back after the service was started again has a row for each run. A run replaces only its own row, so
rows may arrive in any order and more than once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.telemetry.call_log.entry import CallEntry

FIRST_KNOWN = ("connected_at", "started_at", "first_sound_ms")
LAST_KNOWN = tuple(f"{what}_p{percent}_ms" for what in ("delay", "processing") for percent in (50, 95, 99))
"""Percentiles cannot be put together: they are those of the last run that has any."""


def merged(runs: Sequence[CallEntry]) -> CallEntry:
    """Return one call of its entries, in the order of their reservations; times count from the first one."""
    first, last = runs[0], runs[-1]
    if first is last:
        return first
    shifts_s = [round((run.reserved_at - first.reserved_at).total_seconds(), 4) for run in runs]
    counted: Counter[str] = Counter()
    for run in runs:
        counted.update(run.counters)
    recorded = next((run for run in reversed(runs) if run.recording), last)
    values: dict[str, Any] = {name: _first(runs, name) for name in FIRST_KNOWN}
    values |= {name: _first(runs[::-1], name) for name in LAST_KNOWN}
    streams = [stream for run in runs for stream in run.streams]
    return replace(
        last,
        **values,
        reserved_at=first.reserved_at,
        counters=dict(counted),
        recording=recorded.recording,
        recording_fault=recorded.recording_fault,
        pieces=[
            (round(by_s + at_s, 4), text) for run, by_s in zip(runs, shifts_s, strict=True) for at_s, text in run.pieces
        ],
        events=[
            (round(by_s + at_s, 4), kind, detail)
            for run, by_s in zip(runs, shifts_s, strict=True)
            for at_s, kind, detail in run.events
        ],
        streams=[replace(stream, number=number) for number, stream in enumerate(streams, 1)],
    )


def _first(runs: Sequence[CallEntry], name: str) -> Any:
    return next((value for run in runs if (value := getattr(run, name)) is not None), None)
