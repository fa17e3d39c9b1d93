"""Makes the events: `call.started`, `moshi.said`, `caller.said`, `call.key`, `call.transferred`, `call.transfer_ended`,
`call.ended`.

`number` counts the events of a call from 1. Times are seconds of the call's clock. Digits said in a row are masked, as
in the transcript.
"""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from app.calls.end_reason import EndReason
from app.calls.observer import CallObserver
from app.calls.record_json import Exact, InShort, MomentOrNone, Stream, TransferJson, as_json
from app.calls.session import CallSession, End
from app.calls.transcript import Side, Turn
from app.calls.transfer import Transfer
from app.logging import mask_number
from app.telemetry.webhooks.queue import WebhookEvent
from app.twilio.events import DtmfPressed, Event, Started


class EndedCall(Exact):
    """What `call.ended` says of the record, beside who called whom: nothing that grows with the call."""

    end: EndReason | None
    detail: str
    persona: str
    recording: InShort
    started_s: MomentOrNone
    ended_s: MomentOrNone
    streams: list[Stream]
    transfers: list[TransferJson]


class WebhookObserver(CallObserver):
    """Of one stream; `add` queues an event."""

    def __init__(self, session: CallSession, add: Callable[[WebhookEvent], None], *, digits: bool) -> None:
        self._record, self._stream, self._add, self._digits = session.record, session.stream, add, digits
        self._end: End | None = None

    def on_event(self, event: Event, now: float) -> None:
        match event:
            case Started() if self._stream.started_s is not None and self._stream.started_s == self._record.started_s:
                self._emit("call.started", now, self._parties())
            case DtmfPressed(digit):
                self._emit("call.key", now, {"digit": digit[:1] if self._digits else "*"})

    def on_turn(self, turn: Turn, now: float) -> None:
        times_s = {"start_s": round(turn.start_s, 3), "stop_s": round(turn.stop_s, 3)}
        said: dict[str, object] = {"text": turn.text, **times_s}
        self._emit(f"{turn.speaker}.said", now, said, asks=turn.speaker is Side.CALLER)

    def on_transfer(self, transfer: Transfer, now: float) -> None:
        self._emit("call.transferred", now, {"to": mask_number(transfer.to), "by": transfer.by})

    def on_transfer_end(self, transfer: Transfer, now: float) -> None:
        begun: dict[str, object] = {"to": mask_number(transfer.to), "by": transfer.by}
        ended = {"status": transfer.status, "duration_s": transfer.duration_s}
        self._emit("call.transfer_ended", now, begun | ended)

    def on_end(self, end: End, now: float) -> None:
        self._end = end

    def on_words_end(self, now: float) -> None:
        """Send the end after the caller's last words."""
        if self._end and self._end.reason is not EndReason.REPLACED:  # the call goes on
            self._emit("call.ended", now, self._parties() | as_json(self._record, EndedCall))

    def _parties(self) -> dict[str, object]:
        record = self._record
        return {"from": record.caller, "to": record.called, "direction": record.direction, "persona": record.persona}

    def _emit(self, kind: str, now: float, data: dict[str, object], *, asks: bool = False) -> None:
        self._record.webhook_events += 1
        of_call = {"call_sid": self._record.call_sid, "number": self._record.webhook_events}
        at_s = round(now - self._record.reserved_s, 3)
        event = {"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": {**of_call, "at_s": at_s, **data}}
        self._add(WebhookEvent(f"evt_{uuid.uuid4().hex}", self._record.call_sid, json.dumps(event).encode(), asks))
