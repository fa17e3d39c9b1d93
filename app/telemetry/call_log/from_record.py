"""Makes the entry of the call log from the record of a call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from app.calls.record import CallRecord, EndReason, StreamRecord
from app.logging import mask_number
from app.telemetry.call_log.entry import (
    LATENCIES,
    PERCENTILES,
    PROCESSING,
    CallEntry,
    EventEntry,
    Party,
    StreamEntry,
    TranscriptPiece,
)
from workers.messages import Slot, Stage

MAX_TEXT = 500
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
    """One moment on two clocks: `now_s` monotonic, `utc` of the wall."""

    now_s: float
    utc: datetime

    def at(self, moment_s: float) -> datetime:
        """Return a monotonic moment as UTC."""
        return self.utc + timedelta(seconds=moment_s - self.now_s)

    def at_or_none(self, moment_s: float | None) -> datetime | None:
        """Return a monotonic moment as UTC, None if there was none."""
        return None if moment_s is None else self.at(moment_s)


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """Who serves a call: the run of the service, its Twilio account, the checkpoint that speaks."""

    run: str
    account_sid: str
    checkpoint: str


def make_entry(record: CallRecord, slot: Slot, service: ServiceIdentity, clock: ClockReading) -> CallEntry:
    """Return the entry of a call that is on or has ended; `clock` relates the record's times to the wall."""
    caller, called = _clean(record.caller), _clean(record.called)
    return CallEntry(
        call_sid=record.call_sid,
        service=service.run,
        account_sid=service.account_sid,
        direction=_clean(record.direction),
        caller=caller,
        called=called,
        caller_masked=mask_number(caller),
        called_masked=mask_number(called),
        slot=slot,
        checkpoint=service.checkpoint,
        reserved_at=clock.at(record.reserved_s),
        connected_at=clock.at_or_none(record.connected_s),
        started_at=clock.at_or_none(record.started_s),
        ended_at=clock.at_or_none(record.ended_s),
        end_reason=record.end,
        end_detail=_clean(record.detail),
        ended_by=record.end and ENDED_BY[record.end],
        first_sound_ms=_first_sound_ms(record),
        counters=dict(record.counts),
        recording=record.recording.name,
        recording_fault=_clean(record.recording.fault),
        transcript=[TranscriptPiece(_relative(record, at_s), _clean(text)) for at_s, text in record.text],
        events=[EventEntry(_relative(record, at_s), kind, detail) for at_s, kind, detail in _events(record)],
        streams=[_stream_entry(stream, clock) for stream in record.streams],
        **_percentiles_ms(LATENCIES, list(record.latencies_s)),
        **_percentiles_ms(PROCESSING, _processing_s(record)),
    )


def _stream_entry(stream: StreamRecord, clock: ClockReading) -> StreamEntry:
    return StreamEntry(
        number=stream.number,
        reserved_at=clock.at(stream.reserved_s),
        connected_at=clock.at_or_none(stream.connected_s),
        started_at=clock.at_or_none(stream.started_s),
        ended_at=clock.at_or_none(stream.ended_s),
        end_reason=stream.end,
        end_detail=_clean(stream.detail),
        recording=stream.recording.name,
        recording_fault=_clean(stream.recording.fault),
    )


def _clean(text: str) -> str:
    """Drop lone surrogates, which UTF-8 cannot encode, and NUL, which PostgreSQL refuses; limit the length."""
    return text.encode(errors="replace").decode().replace("\0", "")[:MAX_TEXT]


def _relative(record: CallRecord, moment_s: float) -> float:
    return round(moment_s - record.reserved_s, 4)


def _first_sound_ms(record: CallRecord) -> float | None:
    if record.started_s is None or record.first_sound_s is None:
        return None
    return round((record.first_sound_s - record.started_s) * 1000, 1)


def _processing_s(record: CallRecord) -> list[float]:
    """Return what each frame took from the caller's PCM to Moshi's, if it passed all stages."""
    return [spans[-1].ended_s - spans[0].started_s for spans in record.spans if len(spans) == len(Stage)]


def _percentiles_ms(names: tuple[str, ...], times_s: list[float]) -> dict[str, float]:
    """Return PERCENTILES of some times by these names, nothing if there are no times."""
    if not times_s:
        return {}
    values = np.percentile(times_s, PERCENTILES)
    return {name: round(float(value) * 1000, 2) for name, value in zip(names, values, strict=True)}


def _events(record: CallRecord) -> Iterator[tuple[float, str, str]]:
    """Yield what happened, stream by stream: when, what, detail."""
    inside = sorted((key_s, "key pressed") for key_s in record.keys_s)
    if record.first_sound_s is not None:
        inside = sorted([*inside, (record.first_sound_s, "first sound")])
    streams: Sequence[StreamRecord | CallRecord] = record.streams or [record]
    for stream in streams:
        yield stream.reserved_s, "reserved", ""
        for at_s, kind in ((stream.connected_s, "socket opened"), (stream.started_s, "stream started")):
            if at_s is not None:
                yield at_s, kind, ""
        while inside and (stream.ended_s is None or inside[0][0] <= stream.ended_s):
            yield *inside.pop(0), ""
        if stream.ended_s is not None:
            yield stream.ended_s, "ended", f"{stream.end}{f' ({_clean(stream.detail)})' if stream.detail else ''}"
