"""How calls look on a terminal, and as JSON. Numbers are masked in both."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from app.calls.record import Recording
from app.telemetry.call_log.entry import COLUMNS, OUTBOUND, CallEntry, StreamEntry

PAUSE_S = 1.0
"""After a pause as long as this the transcript begins a new line."""
FULL_NUMBERS = ("caller", "called")
SID_END = 6
DATE_WIDTH = len("2026-01-31")


def calls_table(calls: Sequence[CallEntry]) -> Table:
    """Return a row for each call, times as on this machine's clock."""
    table = Table(Column("when", min_width=DATE_WIDTH), "call", "with", "how long", "how it ended", "by", box=SIMPLE)
    for heading in ("first sound", "gaps"):
        table.add_column(heading, justify="right")
    for call in calls:
        end = _end(call)
        sound, gaps = _ms(call.first_sound_ms), str(call.counters.get("underruns", 0))
        row = (_when(call.reserved_at), f"…{call.call_sid[-SID_END:]}", _other(call), _how_long(call), end)
        table.add_row(*map(escape, row), call.ended_by or "", sound, gaps if call.ended_at else "–")
    return table


def call_page(call: CallEntry) -> Group:
    """Return everything that is known of one call."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(call):
        facts.add_row(name, escape(value))
    counters = Table("counter", title="Counters", title_justify="left")
    counters.add_column("count", justify="right")
    for name, count in sorted(call.counters.items()):
        counters.add_row(escape(name), str(count))
    happened = Table.grid(padding=(0, 2))
    for at_s, kind, detail in call.events:
        happened.add_row(clock_of(at_s), escape(kind), escape(detail))
    said = Table.grid(padding=(0, 2))
    for at_s, text in spoken_lines(call.pieces):
        said.add_row(clock_of(at_s), escape(text))
    heading = "\nMoshi said" if call.pieces else "\nMoshi said nothing"
    return Group(facts, "", counters, "\nWhat happened", happened, heading, said)


def spoken_lines(pieces: Sequence[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Yield what was said between pauses, with the second at which it began."""
    said: list[tuple[float, str]] = []
    for at_s, text in pieces:
        if said and at_s - said[-1][0] >= PAUSE_S:
            yield said[0][0], "".join(text for _, text in said).strip()
            said = []
        said.append((at_s, text))
    if said:
        yield said[0][0], "".join(text for _, text in said).strip()


def clock_of(seconds: float) -> str:
    """Return seconds as minutes:seconds with tenths."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def call_json(call: CallEntry) -> dict[str, Any]:
    """Return a call for machines, without transcript; times are UTC."""
    return _json({name: getattr(call, name) for name in COLUMNS if name not in FULL_NUMBERS})


def whole_call_json(call: CallEntry) -> dict[str, Any]:
    """Return a call with what was said, what happened, and its streams."""
    return {
        **call_json(call),
        "transcript": [{"at_s": at_s, "text": text} for at_s, text in call.pieces],
        "events": [{"at_s": at_s, "kind": kind, "detail": detail} for at_s, kind, detail in call.events],
        "streams": [_json(asdict(stream)) for stream in call.streams],
    }


def _json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _facts(call: CallEntry) -> Iterator[tuple[str, str]]:
    yield "call", call.call_sid
    yield "account", call.account_sid or "–"
    yield "from, to", f"{call.caller_masked or '–'}, {call.called_masked or '–'} ({call.direction or 'inbound'})"
    yield "when", f"{_when(call.reserved_at)}, for {_how_long(call)}"
    yield "end", f"{_end(call)}{f', by the {call.ended_by}' if call.ended_by else ''}"
    yield "who spoke", f"{call.checkpoint}, in slot {call.slot}"
    yield "recording", str(Recording(call.recording, call.recording_fault))
    if len(call.streams) > 1:
        for stream in call.streams:
            yield f"stream {stream.number}", _stream(call, stream)
    yield "first sound", _ms(call.first_sound_ms)
    delay = (call.delay_p50_ms, call.delay_p95_ms, call.delay_p99_ms)
    yield "mouth to ear", f"{' / '.join(map(_ms, delay))} (p50 / p95 / p99, estimated)"
    processing = (call.processing_p50_ms, call.processing_p95_ms, call.processing_p99_ms)
    yield "a frame took", f"{' / '.join(map(_ms, processing))} (p50 / p95 / p99)"


def _when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _how_long(call: CallEntry) -> str:
    return "it is on" if call.ended_at is None else clock_of((call.ended_at - call.reserved_at).total_seconds())


def _stream(call: CallEntry, stream: StreamEntry) -> str:
    at = clock_of((stream.reserved_at - call.reserved_at).total_seconds())
    recording = Recording(stream.recording, stream.recording_fault)
    return f"reserved at {at}, {_end(stream) or 'it is on'}, {recording}"


def _end(call: CallEntry | StreamEntry) -> str:
    return f"{call.end_reason or ''}{f' ({call.end_detail})' if call.end_detail else ''}"


def _other(call: CallEntry) -> str:
    """Return who was at the other end."""
    return (call.called_masked if call.direction.startswith(OUTBOUND) else call.caller_masked) or "–"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
