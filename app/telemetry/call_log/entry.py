"""What the call log keeps of a call, and how it is made from the record of the running service.

The one place that knows both: `make_entry` is all that has to change when a record learns more.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np

from app.calls.record import CallRecord, EndReason, StreamRecord
from app.logging import mask_number
from workers.messages import Slot, Stage

KILLED = "the service was killed"
"""The end reason of a call that was on when its service was killed."""
PERCENTILES = (50, 95, 99)
LONGEST_TEXT = 500
OUTBOUND = "outbound"
"""How the direction of a call that we placed begins: outbound-api, outbound-dial."""


class Party(StrEnum):
    """Who ended a call; the line is Twilio and the network up to it."""

    CALLER = "caller"
    LINE = "line"
    SERVICE = "service"
    OPERATOR = "operator"


ENDED_BY = {
    EndReason.CALLER_HUNG_UP: Party.CALLER,
    EndReason.HANGUP_KEY: Party.CALLER,
    EndReason.IDLE: Party.SERVICE,
    EndReason.SOCKET_LOST: Party.LINE,
    EndReason.SOCKET_BLOCKED: Party.LINE,
    EndReason.PROTOCOL: Party.LINE,
    EndReason.NO_START: Party.LINE,
    EndReason.NO_SOCKET: Party.LINE,
    EndReason.WRONG_CALL: Party.LINE,
    EndReason.OPERATOR: Party.OPERATOR,
    EndReason.TIME_LIMIT: Party.SERVICE,
    EndReason.WORKER_LOST: Party.SERVICE,
    EndReason.STAGE_FAILED: Party.SERVICE,
    EndReason.SHUTDOWN: Party.SERVICE,
    EndReason.REPLACED: Party.LINE,
    EndReason.NO_SLOT: Party.SERVICE,
    EndReason.INTERNAL: Party.SERVICE,
}


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One moment on two clocks: `now_s` on the monotonic one, `utc` on the wall."""

    now_s: float
    utc: datetime

    def at(self, moment_s: float | None) -> datetime | None:
        """Return a monotonic moment as UTC."""
        return None if moment_s is None else self.utc + timedelta(seconds=moment_s - self.now_s)


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """Where a call is served: the run of the service, its Twilio account, who speaks."""

    service: str
    account_sid: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class StreamEntry:
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
    """One call as it is kept. Times are UTC; `_s` are seconds since the slot was reserved, `_ms` lengths of time.

    `ended_at` is None while the call is on. `delay_*_ms` is mouth to ear as
    estimated by this service (the line's way included), `processing_*_ms` what the workers took for a frame.
    `recording` is the name of the files of its last recording, "" for none, `recording_fault` why that was broken off
    or not made. A call that came back has several `streams`.
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
    delay_p50_ms: float | None = None
    delay_p95_ms: float | None = None
    delay_p99_ms: float | None = None
    processing_p50_ms: float | None = None
    processing_p95_ms: float | None = None
    processing_p99_ms: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
    recording: str = ""
    recording_fault: str = ""
    pieces: list[tuple[float, str]] = field(default_factory=list)
    events: list[tuple[float, str, str]] = field(default_factory=list)
    streams: list[StreamEntry] = field(default_factory=list)

    def as_line(self) -> str:
        """Return the entry as one line of JSON, without its end."""
        values = {kept.name: getattr(self, kept.name) for kept in fields(self)}
        values["streams"] = [asdict(stream) for stream in self.streams]
        return json.dumps(values, default=datetime.isoformat, ensure_ascii=False)


COLUMNS = tuple(column.name for column in fields(CallEntry) if column.name not in ("pieces", "events", "streams"))
"""What is kept in the call's own row."""
TIMES = ("reserved_at", "connected_at", "started_at", "ended_at")


def read_entry(line: str) -> CallEntry:
    """Return the entry of a line; raises ValueError if it is none."""
    try:
        fields: dict[str, Any] = json.loads(line)
        for name in ("pieces", "events"):
            fields[name] = [tuple(item) for item in fields[name]]
        fields["streams"] = [StreamEntry(**_with_times(stream)) for stream in fields.get("streams", [])]
        return CallEntry(**_with_times(fields))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no record of a call: {error}") from error


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what was read from JSON with its moments as such."""
    moments = {name: fields[name] and datetime.fromisoformat(fields[name]) for name in TIMES}
    return {**fields, **moments}


def make_entry(record: CallRecord, slot: Slot, place: ServiceIdentity, clock: ClockReading) -> CallEntry:
    """Return what is kept of a call that is on or has ended; `clock` says when that was on the wall."""
    reserved_at = clock.at(record.reserved_s)
    assert reserved_at is not None
    p50_ms, p95_ms, p99_ms = _percentiles_ms(_processing_s(record))
    delay_p50_ms, delay_p95_ms, delay_p99_ms = _percentiles_ms(list(record.latencies_s))
    caller, called = _clean(record.caller), _clean(record.called)
    return CallEntry(
        call_sid=record.call_sid,
        service=place.service,
        account_sid=place.account_sid,
        direction=_clean(record.direction),
        caller=caller,
        called=called,
        caller_masked=mask_number(caller),
        called_masked=mask_number(called),
        slot=slot,
        checkpoint=place.checkpoint,
        reserved_at=reserved_at,
        connected_at=clock.at(record.connected_s),
        started_at=clock.at(record.started_s),
        ended_at=clock.at(record.ended_s),
        end_reason=record.end,
        end_detail=_clean(record.detail),
        ended_by=record.end and ENDED_BY[record.end],
        first_sound_ms=_first_sound_ms(record),
        delay_p50_ms=delay_p50_ms,
        delay_p95_ms=delay_p95_ms,
        delay_p99_ms=delay_p99_ms,
        processing_p50_ms=p50_ms,
        processing_p95_ms=p95_ms,
        processing_p99_ms=p99_ms,
        counters=dict(record.counts),
        recording=record.recording.name,
        recording_fault=_clean(record.recording.fault),
        pieces=[(_relative(record, moment_s), _clean(text)) for moment_s, text in record.text],
        events=_events(record),
        streams=[_stream_entry(stream, clock) for stream in record.streams],
    )


def _stream_entry(stream: StreamRecord, clock: ClockReading) -> StreamEntry:
    reserved_at = clock.at(stream.reserved_s)
    assert reserved_at is not None
    return StreamEntry(
        number=stream.number,
        reserved_at=reserved_at,
        connected_at=clock.at(stream.connected_s),
        started_at=clock.at(stream.started_s),
        ended_at=clock.at(stream.ended_s),
        end_reason=stream.end,
        end_detail=_clean(stream.detail),
        recording=stream.recording.name,
        recording_fault=_clean(stream.recording.fault),
    )


def _clean(text: str) -> str:
    """Leave out what a file or PostgreSQL cannot keep, and more than anybody has to say."""
    return text.encode(errors="replace").decode().replace("\0", "")[:LONGEST_TEXT]


def _relative(record: CallRecord, moment_s: float) -> float:
    return round(moment_s - record.reserved_s, 4)


def _first_sound_ms(record: CallRecord) -> float | None:
    if record.started_s is None or record.first_sound_s is None:
        return None
    return round((record.first_sound_s - record.started_s) * 1000, 1)


def _processing_s(record: CallRecord) -> list[float]:
    """Return what each frame took from the caller's PCM to Moshi's, of those that are known."""
    return [spans[-1].ended_s - spans[0].started_s for spans in record.spans if len(spans) == len(Stage)]


def _percentiles_ms(times_s: list[float]) -> tuple[float | None, ...]:
    """Return PERCENTILES of some times; None each when there are none."""
    if not times_s:
        return (None,) * len(PERCENTILES)
    return tuple(round(float(value) * 1000, 2) for value in np.percentile(times_s, PERCENTILES))


def _events(record: CallRecord) -> list[tuple[float, str, str]]:
    """Return what happened, stream by stream, in the order of time: seconds since the reservation, what, detail."""
    sound = [(record.first_sound_s, "first sound")] if record.first_sound_s is not None else []
    heard = deque(sorted([*sound, *((key_s, "key pressed") for key_s in record.keys_s)]))
    moments: list[tuple[float | None, str, str]] = []
    streams: Sequence[StreamRecord | CallRecord] = record.streams or [record]
    for stream in streams:
        opened = ((stream.connected_s, "socket opened", ""), (stream.started_s, "stream started", ""))
        moments += [(stream.reserved_s, "reserved", ""), *opened]
        while heard and (stream.ended_s is None or heard[0][0] <= stream.ended_s):
            moments.append((*heard.popleft(), ""))
        detail = f" ({_clean(stream.detail)})" if stream.detail else ""
        moments.append((stream.ended_s, "ended", f"{stream.end}{detail}"))
    return [(_relative(record, moment_s), kind, detail) for moment_s, kind, detail in moments if moment_s is not None]
