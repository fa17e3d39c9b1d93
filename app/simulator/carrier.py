"""Twilio's side of the media stream, without I/O: the counterpart of `app.twilio.protocol`.

Both ends follow the same table of states. `send` writes Twilio's messages, counting messages and packets as Twilio
does; `receive` reads the server's, as strictly as Twilio does: an additional field is a violation (warning 31951), and
so is a binary message (31950).
"""

from dataclasses import dataclass
from typing import assert_never

from app.twilio.events import (
    CHANNELS,
    ENCODING,
    RATE_HZ,
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
from app.twilio.wire import (
    Fields,
    ProtocolMisuse,
    ProtocolViolation,
    Reason,
    bad_field,
    read_message,
    read_object,
    read_payload,
    read_text,
    write_message,
    write_payload,
)

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
        self._sequence = 0
        self._packets = 0

    def send(self, event: Event) -> str:
        """Serialize one message to the server; raises `ProtocolMisuse` where the order does not allow it.

        The carrier numbers the messages, whatever the sequence of a `Media` says.
        """
        following = self.state if isinstance(event, Unknown) else NEXT[self.state].get(type(event))
        if following is None:
            raise ProtocolMisuse(f"{type(event).__name__} cannot be sent in state {self.state.name}.")
        self.state = following
        if isinstance(event, Started):
            self._started = event
        envelope: Fields = {}
        if self._started:
            self._sequence += 1
            envelope = {"sequenceNumber": str(self._sequence), "streamSid": self._started.stream_sid}
        return write_message({**envelope, **self._body(event)})

    def receive(self, message: str | bytes) -> ServerEvent:
        """Return what the server wants; raises `ProtocolViolation` for what Twilio would refuse."""
        fields = read_message(message, MAX_MESSAGE_BYTES)
        if self._started is None:
            raise ProtocolViolation(Reason.OUT_OF_ORDER, "The server spoke before the stream started.")
        if read_text(fields, "streamSid") != self._started.stream_sid:
            raise ProtocolViolation(Reason.WRONG_STREAM, "The server named another stream.")
        return _parse(fields)

    def _body(self, event: Event) -> Fields:
        match event:
            case Connected(version):
                return {"event": "connected", "protocol": "Call", "version": version}
            case Started():
                return {"event": "start", "start": _start(event)}
            case Media(timestamp_ms, payload):
                self._packets += 1
                packet = {"track": TRACK, "chunk": str(self._packets), "timestamp": str(timestamp_ms)}
                return {"event": "media", "media": {**packet, "payload": write_payload(payload)}}
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


def _start(event: Started) -> Fields:
    return {
        "accountSid": event.account_sid,
        "streamSid": event.stream_sid,
        "callSid": event.call_sid,
        "tracks": [TRACK],
        "mediaFormat": {"encoding": ENCODING, "sampleRate": RATE_HZ, "channels": CHANNELS},
        "customParameters": dict(event.parameters),
    }


def _parse(fields: Fields) -> ServerEvent:
    match read_text(fields, "event"):
        case "media":
            return Play(read_payload(_only(fields, "media", "payload"), "payload"))
        case "mark":
            return SetMark(read_text(_only(fields, "mark", "name"), "name"))
        case "clear":
            _check_keys(fields, {"event", "streamSid"})
            return ClearBuffer()
        case _:
            raise bad_field("event", "media, mark or clear")


def _only(fields: Fields, kind: str, key: str) -> Fields:
    """Return the object under `kind`, which may hold `key` and nothing else."""
    _check_keys(fields, {"event", "streamSid", kind})
    body = read_object(fields, kind)
    _check_keys(body, {key})
    return body


def _check_keys(fields: Fields, allowed: set[str]) -> None:
    if not fields.keys() <= allowed:
        raise ProtocolViolation(Reason.BAD_FIELD, f"Twilio knows no {', '.join(sorted(fields.keys() - allowed))!r}.")
