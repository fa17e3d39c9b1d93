"""What the span of a call says, made from its entry in the call log. No number in full, no word, no key."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.call.record import EndReason
from app.calllog.entry import CallEntry
from app.service.observer import ERRORS
from workers.lines import Hide

NAME = "call"
FIGURES = (
    "first_sound_ms",
    *(f"{what}_p{percent}_ms" for what in ("delay", "processing") for percent in (50, 95, 99)),
)
"""What is taken as it is."""

Attributes = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class CallSpan:
    """One call; `fault` says what went wrong if it ended as nobody wanted. Times are nanoseconds since 1970."""

    began_ns: int
    ended_ns: int
    attributes: Attributes
    events: list[tuple[int, str]]
    fault: str = ""


def span_of(entry: CallEntry, hide: Hide) -> CallSpan:
    """Return the span of a call that has ended; `hide` takes numbers and secrets out of what others have written."""
    assert entry.ended_at is not None
    assert entry.end_reason is not None
    return CallSpan(
        _nanoseconds(entry.reserved_at),
        _nanoseconds(entry.ended_at),
        _attributes(entry, hide),
        [(_nanoseconds(entry.reserved_at + timedelta(seconds=at_s)), kind) for at_s, kind, _ in entry.events],
        hide(entry.end_reason) if EndReason(entry.end_reason) in ERRORS else "",
    )


def _attributes(entry: CallEntry, hide: Hide) -> Attributes:
    told: dict[str, str | int | float | None] = {
        "sid": entry.call_sid,
        "direction": entry.direction,
        "from": hide(entry.caller_masked),
        "to": hide(entry.called_masked),
        "slot": entry.slot,
        "checkpoint": entry.checkpoint,
        "end.reason": entry.end_reason,
        "end.by": entry.ended_by,
        "end.detail": hide(entry.end_detail),
        **{name: getattr(entry, name) for name in FIGURES},
        **{f"counts.{name}": count for name, count in entry.counters.items()},
    }
    return {f"call.{name}": value for name, value in told.items() if value not in (None, "")}


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1_000
