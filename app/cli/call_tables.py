"""How calls look on a terminal. Numbers are masked."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from app.calls.record import Recording
from app.telemetry.call_log.entry import LATENCIES, OUTBOUND, PROCESSING, CallEntry, StreamEntry
from app.telemetry.call_log.search import FoundTurn
from app.telemetry.call_log.webvtt import VOICES

SID_END = 6
"""Characters of a SID that are shown."""
DATE_WIDTH = len("2026-01-31")


def calls_table(calls: Sequence[CallEntry]) -> Table:
    """Return a row for each call, times as on this machine's clock."""
    table = Table(Column("when", min_width=DATE_WIDTH), "call", "with", "how long", "how it ended", "by", box=SIMPLE)
    for heading in ("first sound", "gaps"):
        table.add_column(heading, justify="right")
    for call in calls:
        other = call.called_masked if call.direction.startswith(OUTBOUND) else call.caller_masked
        gaps = str(call.counters.get("underruns", 0)) if call.ended_at else "–"
        row = (_when(call.reserved_at), sid_end(call.call_sid), other or "–", _how_long(call), _end(call))
        table.add_row(*map(escape, row), call.ended_by or "", ms(call.first_sound_ms), gaps)
    return table


def call_page(call: CallEntry) -> Group:
    counters = Table("counter", Column("count", justify="right"), title="Counters", title_justify="left")
    for name, count in sorted(call.counters.items()):
        counters.add_row(escape(name), str(count))
    events = _grid((clock_of(event.at_s), event.kind, event.detail) for event in call.events)
    lines = _grid((clock_of(turn.start_s), VOICES[turn.speaker], turn.text) for turn in call.turns)
    heading = "\nWhat was said" if call.transcript else "\nNothing was said"
    return Group(_grid(_facts(call)), "", counters, "\nWhat happened", events, heading, lines)


def found_table(found: Sequence[FoundTurn]) -> Table:
    table = Table(Column("when", min_width=DATE_WIDTH), "call", "with", "at", "who", "said", box=SIMPLE)
    for turn in found:
        other = turn.called_masked if turn.direction.startswith(OUTBOUND) else turn.caller_masked
        at = (clock_of(turn.at_s), VOICES[turn.speaker])
        row = (_when(turn.reserved_at), sid_end(turn.call_sid), other or "–", *at, turn.text)
        table.add_row(*map(escape, row))
    return table


def sid_end(call_sid: str) -> str:
    return f"…{call_sid[-SID_END:]}"


def clock_of(seconds: float) -> str:
    """Return seconds as minutes:seconds with tenths."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def _grid(rows: Iterator[tuple[str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for first, *rest in rows:
        grid.add_row(first, *map(escape, rest))
    return grid


def _facts(call: CallEntry) -> Iterator[tuple[str, str]]:
    yield "call", call.call_sid
    yield "account", call.account_sid or "–"
    yield "from, to", f"{call.caller_masked or '–'}, {call.called_masked or '–'} ({call.direction or 'inbound'})"
    yield "when", f"{_when(call.reserved_at)}, for {_how_long(call)}"
    yield "end", f"{_end(call)}{f', by the {call.ended_by}' if call.ended_by else ''}"
    yield "checkpoint", f"{call.checkpoint}, in slot {call.slot}"
    if call.persona:
        yield "persona", call.persona
    yield "recording", str(Recording(call.recording, call.recording_fault))
    if len(call.streams) > 1:
        for stream in call.streams:
            yield f"stream {stream.number}", _stream(call, stream)
    yield "first sound", ms(call.first_sound_ms)
    yield "mouth to ear", f"{_three_ms(call, LATENCIES)} (p50 / p95 / p99, estimated)"
    yield "processing", f"{_three_ms(call, PROCESSING)} (p50 / p95 / p99)"


def _stream(call: CallEntry, stream: StreamEntry) -> str:
    at = clock_of((stream.reserved_at - call.reserved_at).total_seconds())
    return f"reserved at {at}, {_end(stream) or 'it is on'}, {Recording(stream.recording, stream.recording_fault)}"


def _when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _how_long(call: CallEntry) -> str:
    return "it is on" if call.ended_at is None else clock_of((call.ended_at - call.reserved_at).total_seconds())


def _end(call: CallEntry | StreamEntry) -> str:
    return f"{call.end_reason or ''}{f' ({call.end_detail})' if call.end_detail else ''}"


def _three_ms(call: CallEntry, names: tuple[str, ...]) -> str:
    return " / ".join(ms(getattr(call, name)) for name in names)


def ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
