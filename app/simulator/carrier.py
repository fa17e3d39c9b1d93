"""Twilio's side of the media stream, without I/O: the counterpart of `app.twilio.protocol`.

Both ends follow the same table of states. `send` writes Twilio's messages, counting messages and packets as Twilio
does; `receive` reads the server's, as strictly as Twilio does: an additional field is a violation (warning 31951), and
so is a binary message (31950).
"""

from dataclasses import dataclass
from typing import assert_never

from app.twilio import wire
from app.twilio.events import (
    MEDIA_FORMAT,
    TRACK,
    Connected,
    DtmfPressed,
    Event,
    MarkPlayed,
    Media,
    Started,
    Stopped,
    Unknown,
)
from app.twilio.protocol import NEXT, StreamState

MAX_MESSAGE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Play:
    """Play these mu-law bytes after everything before them."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SetMark:
    """Return this name once everything before it has been played."""

    name: str


@dataclass(frozen=True, slots=True)
class ClearBuffer:
    """Drop what has not been played."""


ServerEvent = Play | SetMark | ClearBuffer


class CarrierProtocol:
    """Write Twilio's messages, read the server's; one object for one socket."""

    def __init__(self) -> None:
        self.state = StreamState.NEW
        self._started: Started | None = None
        self._messages = self._packets = 0

    def send(self, event: Event) -> str:
        """Serialize one message to the server; raises `ProtocolMisuse` where the order does not allow it."""
        following = self.state if isinstance(event, Unknown) else NEXT[self.state].get(type(event))
        if following is None:
            raise wire.ProtocolMisuse(f"{type(event).__name__} cannot be sent in state {self.state.name}.")
        self.state = following
        if isinstance(event, Started):
            self._started = event
        envelope: wire.Fields = {}
        if self._started:
            self._messages += 1
            envelope = {"sequenceNumber": str(self._messages), "streamSid": self._started.stream_sid}
        return wire.write_message({**envelope, **self._body(event)})

    def receive(self, message: str | bytes) -> ServerEvent:
        """Return what the server wants; raises `ProtocolViolation` for what Twilio would refuse."""
        fields = wire.read_message(message, MAX_MESSAGE_BYTES)
        if self._started is None:
            raise wire.ProtocolViolation(wire.Reason.OUT_OF_ORDER, "The server spoke before the stream started.")
        if wire.read_text(fields, "streamSid") != self._started.stream_sid:
            raise wire.ProtocolViolation(wire.Reason.WRONG_STREAM, "The server named another stream.")
        match wire.read_text(fields, "event"):
            case "media":
                return Play(wire.read_payload(_only(fields, "media", "payload"), "payload"))
            case "mark":
                return SetMark(wire.read_text(_only(fields, "mark", "name"), "name"))
            case "clear":
                _check_keys(fields, {"event", "streamSid"})
                return ClearBuffer()
            case _:
                raise wire.bad_field("event", "media, mark or clear")

    def _body(self, event: Event) -> wire.Fields:
        match event:
            case Connected():
                return {"event": "connected", "protocol": "Call", "version": "1.0.0"}
            case Started():
                sids = {"accountSid": event.account_sid, "streamSid": event.stream_sid, "callSid": event.call_sid}
                stream = {"tracks": [TRACK], "mediaFormat": MEDIA_FORMAT, "customParameters": dict(event.parameters)}
                return {"event": "start", "start": sids | stream}
            case Media(timestamp_ms, payload):
                self._packets += 1
                packet = {"track": TRACK, "chunk": str(self._packets), "timestamp": str(timestamp_ms)}
                return {"event": "media", "media": {**packet, "payload": wire.write_payload(payload)}}
            case DtmfPressed(digit):
                return {"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": digit}}
            case MarkPlayed(name):
                return {"event": "mark", "mark": {"name": name}}
            case Stopped():
                assert self._started
                sids = {"accountSid": self._started.account_sid, "callSid": self._started.call_sid}
                return {"event": "stop", "stop": sids}
            case Unknown(kind):
                return {"event": kind}
            case _:
                assert_never(event)


def _only(fields: wire.Fields, kind: str, key: str) -> wire.Fields:
    """Return the object under `kind`, which may hold `key` and nothing else."""
    _check_keys(fields, {"event", "streamSid", kind})
    body = wire.read_object(fields, kind)
    _check_keys(body, {key})
    return body


def _check_keys(fields: wire.Fields, allowed: set[str]) -> None:
    if more := fields.keys() - allowed:
        raise wire.ProtocolViolation(wire.Reason.BAD_FIELD, f"Twilio knows no {', '.join(sorted(more))!r}.")
