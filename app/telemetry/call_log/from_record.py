"""Makes the entry of the call log from the record of a call."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from app.calls.end_reason import EndReason
from app.calls.record import CallRecord, Gap, StreamRecord
from app.calls.transcript import Word
from app.calls.transfer import Transfer
from app.logging import mask_number
from app.telemetry.call_log.entry import PERCENTILES, CallEntry, EventEntry, Party, StreamEntry, TranscriptWord
from workers.messages import Slot, Stage

MAX_TEXT = 500
_ENDS = {
    Party.CALLER: (EndReason.CALLER_HUNG_UP, EndReason.HANGUP_KEY),
    Party.LINE: (
        *(EndReason.SOCKET_LOST, EndReason.SOCKET_BLOCKED, EndReason.PROTOCOL, EndReason.NO_START),
        *(EndReason.NO_SOCKET, EndReason.WRONG_CALL, EndReason.REPLACED),
    ),
    Party.SERVICE: (
        *(EndReason.IDLE, EndReason.TIME_LIMIT, EndReason.WORKER_LOST, EndReason.STAGE_FAILED),
        *(EndReason.SHUTDOWN, EndReason.NO_SLOT, EndReason.INTERNAL, EndReason.TRANSFERRED),
    ),
    Party.OPERATOR: (EndReason.OPERATOR,),
}
ENDED_BY = {reason: party for party, reasons in _ENDS.items() for reason in reasons}


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """Who serves a call: the run of the service, its Twilio account, the checkpoint that speaks."""

    run: str
    account_sid: str
    checkpoint: str


def clock_zero() -> datetime:
    """Return when the monotonic clock was 0, as the clock on the wall has it now."""
    return datetime.now(UTC) - timedelta(seconds=time.monotonic())


def make_entry(record: CallRecord, slot: Slot, service: ServiceIdentity, zero: datetime) -> CallEntry:
    """Return the entry of a call that is on or has ended; its times count from `zero`."""
    caller, called = _clean(record.caller), _clean(record.called)
    processing_s = [spans[-1].ended_s - spans[0].started_s for spans in record.spans if len(spans) == len(Stage)]
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
        persona=record.persona,
        ended_by=record.end and ENDED_BY[record.end],
        first_sound_ms=_between_ms(record.started_s, record.first_sound_s),
        counters=dict(record.counts),
        transcript=[_row(word) for word in sorted(record.words, key=attrgetter("start_s"))],
        events=[EventEntry(_relative(record, at_s), kind, detail) for at_s, kind, detail in _events(record)],
        streams=[StreamEntry(stream.number, **_of_both(stream, zero)) for stream in record.streams],
        **_of_both(record, zero),
        **_percentiles_ms("latency", list(record.latencies_s)),
        **_percentiles_ms("processing", processing_s),
    )


def _of_both(record: CallRecord | StreamRecord, zero: datetime) -> dict[str, Any]:
    """Return what calls and streams have alike."""
    times_s = {name: getattr(record, f"{name}_s") for name in ("reserved", "connected", "started", "ended")}
    return {
        **{f"{name}_at": at_s if at_s is None else zero + timedelta(seconds=at_s) for name, at_s in times_s.items()},
        "end_reason": record.end,
        "end_detail": _clean(record.detail),
        "recording": record.recording.name,
        "recording_fault": _clean(record.recording.fault),
    }


def _gap_events(gap: Gap) -> Iterator[tuple[float, str, str]]:
    yield gap.began_s, "gap", _clean(gap.reason)
    if gap.seconds is not None:
        yield gap.began_s + gap.seconds, "resumed", f"{gap.steps} steps known, {gap.left_out} left out"


def _transfer_events(transfer: Transfer) -> Iterator[tuple[float | None, str, str]]:
    yield transfer.at_s, "transfer", f"to {mask_number(transfer.to)}, by {transfer.by}"
    lasted = "" if transfer.duration_s is None else f", {transfer.duration_s} s"
    yield transfer.ended_s, "transfer over", f"{_clean(transfer.status)}{lasted}"


def _clean(text: str) -> str:
    """Drop lone surrogates, which UTF-8 cannot encode, and NUL, which PostgreSQL refuses; limit the length."""
    return text.encode(errors="replace").decode().replace("\0", "")[:MAX_TEXT]


def _row(word: Word) -> TranscriptWord:
    return TranscriptWord(round(word.start_s, 4), _clean(word.text), word.speaker, round(word.stop_s, 4))


def _relative(record: CallRecord, moment_s: float) -> float:
    return round(moment_s - record.reserved_s, 4)


def _between_ms(begin_s: float | None, end_s: float | None) -> float | None:
    return None if begin_s is None or end_s is None else round((end_s - begin_s) * 1000, 1)


def _percentiles_ms(what: str, times_s: list[float]) -> dict[str, Any]:
    values = np.percentile(times_s, PERCENTILES) if times_s else ()
    return {f"{what}_p{p}_ms": round(float(value) * 1000, 2) for p, value in zip(PERCENTILES, values, strict=False)}


def _events(record: CallRecord) -> list[tuple[float, str, str]]:
    """Return what happened: when, what, detail."""
    happened: list[tuple[float | None, str, str]] = []
    streams: Sequence[StreamRecord | CallRecord] = record.streams or [record]
    for one in streams:
        happened += [(one.reserved_s, "reserved", ""), (one.connected_s, "socket opened", "")]
        happened.append((one.started_s, "stream started", ""))
    happened += [(record.first_sound_s, "first sound", ""), *((key_s, "key pressed", "") for key_s in record.keys_s)]
    happened += [event for gap in record.gaps for event in _gap_events(gap)]
    happened += [event for transfer in record.transfers for event in _transfer_events(transfer)]
    for one in streams:
        happened.append((one.ended_s, "ended", f"{one.end}{f' ({_clean(one.detail)})' if one.detail else ''}"))
    known = [(at_s, kind, detail) for at_s, kind, detail in happened if at_s is not None]
    return sorted(known, key=itemgetter(0))
