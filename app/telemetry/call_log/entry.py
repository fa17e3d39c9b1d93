"""What the call log stores of a call. These fields are the columns of the tables, the JSON and the spool's lines."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from app.calls.masking import mask_digits
from app.calls.transcript import PieceWords, Side, Turn, Word, turns_of

KILLED = "the service was killed"
"""The end reason of a call that was on when its service was killed."""
PERCENTILES = (50, 95, 99)
LATENCIES, PROCESSING = (tuple(f"{what}_p{p}_ms" for p in PERCENTILES) for what in ("latency", "processing"))
OUTBOUND = "outbound"
"""How the direction of a call that we placed begins: outbound-api, outbound-dial."""


class Party(StrEnum):
    """Who ended a call; the line is Twilio and the network up to it."""

    CALLER = "caller"
    LINE = "line"
    SERVICE = "service"
    OPERATOR = "operator"


class TranscriptWord(NamedTuple):
    """A word that was said, digits masked, from `at_s` to `stop_s` seconds after the slot was reserved.

    Without `stop_s` it is a piece of Moshi's text with its spaces, as versions before 0006 stored them.
    """

    at_s: float
    text: str
    speaker: str = Side.MOSHI
    stop_s: float | None = None


class EventEntry(NamedTuple):
    """What happened, `at_s` seconds after the slot was reserved."""

    at_s: float
    kind: str
    detail: str


class StreamEntry(NamedTuple):
    """One media stream of a call, numbered from 1; times are UTC, `recording` is as in `CallEntry`."""

    number: int
    reserved_at: datetime
    connected_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    end_detail: str
    recording: str
    recording_fault: str


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One call. Times are UTC; `ended_at` is None while it is on. `service` is the run of the service that wrote it.

    `latency_*_ms` is mouth to ear as estimated by this service, the line's round trip included; `processing_*_ms` is
    the workers' time for a frame. `recording` is the name of the files of the last recording, "" for none;
    `recording_fault` is why that was broken off or not made. `persona` is who spoke, "" for Moshi as its weights are. A
    call that came back has several `streams`.
    """

    call_sid: str
    service: str
    account_sid: str
    direction: str
    caller: str
    called: str
    caller_masked: str
    called_masked: str
    slot: int
    checkpoint: str
    reserved_at: datetime
    connected_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    end_detail: str = ""
    ended_by: str | None = None
    first_sound_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    processing_p50_ms: float | None = None
    processing_p95_ms: float | None = None
    processing_p99_ms: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
    recording: str = ""
    recording_fault: str = ""
    persona: str = ""
    transcript: list[TranscriptWord] = field(default_factory=list)
    events: list[EventEntry] = field(default_factory=list)
    streams: list[StreamEntry] = field(default_factory=list)

    def as_line(self) -> str:
        """Return one line of JSON, without its end."""
        return _ADAPTER.dump_json(self).decode()

    def as_json(self, whole: bool = False) -> dict[str, Any]:
        """Return a call for machines, numbers masked; `whole` with transcript, events and streams."""
        shown = _json({name: getattr(self, name) for name in COLUMNS if name not in ("caller", "called")})
        lists = {name: [_json(row._asdict()) for row in getattr(self, name)] for name in KINDS if whole}
        if whole:
            lists["transcript"] = [dict(zip(WORD_FIELDS, word.as_json(), strict=True)) for word in self.words]
        return shown | lists

    @property
    def words(self) -> list[Word]:
        return words_of_rows(self.transcript)

    @property
    def turns(self) -> list[Turn]:
        return turns_of(self.words)

    def killed(self, alive_at: datetime) -> "CallEntry":
        """Return the call as ended by the death of its service, which was last alive at this moment."""
        ended_at = max(alive_at, self.reserved_at)
        event = EventEntry(_seconds(self.reserved_at, ended_at), "ended", KILLED)
        streams = [
            stream if stream.ended_at else stream._replace(ended_at=ended_at, end_reason=KILLED)
            for stream in self.streams
        ]
        end = {"ended_at": ended_at, "end_reason": KILLED, "ended_by": Party.SERVICE}
        return replace(self, **end, events=[*self.events, event], streams=streams)  # type: ignore[arg-type]


KINDS: dict[str, Any] = {"transcript": TranscriptWord, "events": EventEntry, "streams": StreamEntry}
"""What a call has several of, in tables of its own."""
COLUMNS = tuple(column.name for column in fields(CallEntry) if column.name not in KINDS)
WORD_FIELDS = ("speaker", "text", "start_s", "stop_s")
_ADAPTER = TypeAdapter(CallEntry)
_FORMER_NAMES = {"pieces": "transcript", **{f"delay_p{p}_ms": f"latency_p{p}_ms" for p in PERCENTILES}}


def read_entry(line: str) -> CallEntry:
    """Return the entry of a line, also of one from before fields were renamed. Raises ValueError if it is none."""
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("no record of a call")
    return _ADAPTER.validate_python({_FORMER_NAMES.get(name, name): value for name, value in values.items()})


def words_of_rows(rows: Sequence[TranscriptWord]) -> list[Word]:
    """Return the words of a transcript, also of one from before words were stored."""
    pieces, words = PieceWords(), []
    for row in rows:
        if row.stop_s is None:
            words += [*pieces.check(row.at_s), *pieces.add(row.text, row.at_s)]
        else:
            words.append(Word(Side(row.speaker), row.text, row.at_s, row.stop_s))
    if former := pieces.flush():
        words += former
    return words if all(row.stop_s is not None for row in rows) else mask_digits(words)


def turns_of_rows(rows: Sequence[TranscriptWord]) -> list[Turn]:
    return turns_of(words_of_rows(rows))


def merge(runs: Sequence[CallEntry]) -> CallEntry:
    """Return one call of the entries that several runs of the service have of it, by when they were reserved.

    A call that comes back after the service was started again has an entry of each run. Percentiles cannot be merged:
    they are those of the last run that has any.
    """
    first, last = runs[0], runs[-1]
    if first is last:
        return first
    values: dict[str, Any] = {name: _known(runs, name) for name in ("connected_at", "started_at", "first_sound_ms")}
    values |= {name: _known(runs[::-1], name) for name in (*LATENCIES, *PROCESSING)}
    recorded = next((run for run in reversed(runs) if run.recording), last)
    values |= {name: getattr(recorded, name) for name in ("recording", "recording_fault")}
    for name in ("transcript", "events"):
        values[name] = [
            _later(row, _seconds(first.reserved_at, run.reserved_at)) for run in runs for row in getattr(run, name)
        ]
    streams = [stream for run in runs for stream in run.streams]
    values["streams"] = [stream._replace(number=number) for number, stream in enumerate(streams, 1)]
    counters = Counter(first.counters)
    for run in runs[1:]:
        counters.update(run.counters)
    return replace(last, **values, reserved_at=first.reserved_at, counters=dict(counters))


def _later(row: Any, seconds: float) -> Any:
    times_s = {name: getattr(row, name, None) for name in ("at_s", "stop_s")}
    return row._replace(**{name: round(at_s + seconds, 4) for name, at_s in times_s.items() if at_s is not None})


def _known(runs: Sequence[CallEntry], name: str) -> Any:
    return next((value for run in runs if (value := getattr(run, name)) is not None), None)


def _seconds(begin: datetime, end: datetime) -> float:
    return round((end - begin).total_seconds(), 4)


def _json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
