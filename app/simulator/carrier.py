"""Twilio's side of the media stream, without I/O: the counterpart of `app.twilio.protocol`.

Both ends follow the same table of states. `send` writes what Twilio tells the server, counting messages and packets as
Twilio does; `receive` reads what the server tells Twilio, as strictly as Twilio does: a field too many is a violation
(warning 31951), and so is a binary message (31950).
"""

from collections.abc import Mapping
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
    """The server wants these mu-law bytes played after everything before them."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SetMark:
    """The server wants this name back once everything before it has been played."""

    name: str


@dataclass(frozen=True, slots=True)
class ClearBuffer:
    """The server wants everything not yet played thrown away."""


ServerEvent = Play | SetMark | ClearBuffer


class CarrierProtocol:
    """Write Twilio's messages, read the server's; one object for one socket."""

    def __init__(self) -> None:
        """Begin before the first message."""
        self.state = StreamState.NEW
        self._started: Started | None = None
        self._sequence = 0
        self._packets = 0

    def send(self, event: Event) -> str:
        """Serialize one message to the server; raises `ProtocolMisuse` where the order does not allow it.

        The sequence number of a `Media` is the carrier's to give, whatever the event says.
        """
        following = self.state if isinstance(event, Unknown) else NEXT[self.state].get(type(event))
        if following is None:
            raise ProtocolMisuse(f"{type(event).__name__} cannot be sent in state {self.state.name}.")
        self.state = following
        if isinstance(event, Started):
            self._started = event
        return write_message({**self._envelope(), **self._body(event)})

    def receive(self, message: str | bytes) -> ServerEvent:
        """Return what the server wants; raises `ProtocolViolation` for whatever Twilio would refuse."""
        fields = read_message(message, MAX_MESSAGE_BYTES)
        if self._started is None:
            raise ProtocolViolation(Reason.OUT_OF_ORDER, "The server spoke before the stream started.")
        if read_text(fields, "streamSid") != self._started.stream_sid:
            raise ProtocolViolation(Reason.WRONG_STREAM, "The server named another stream.")
        return _parse(fields)

    def _envelope(self) -> Fields:
        if self._started is None:
            return {}
        self._sequence += 1
        return {"sequenceNumber": str(self._sequence), "streamSid": self._started.stream_sid}

    def _body(self, event: Event) -> Fields:
        match event:
            case Connected(version):
                return {"event": "connected", "protocol": "Call", "version": version}
            case Started():
                return {"event": "start", "start": _start(event)}
            case Media(timestamp_ms, payload):
                return {"event": "media", "media": self._media(timestamp_ms, payload)}
            case DtmfPressed(digit):
                return {"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": digit}}
            case MarkPlayed(name):
                return {"event": "mark", "mark": {"name": name}}
            case Stopped():
                return {"event": "stop", "stop": self._stop()}
            case Unknown(kind):
                return {"event": kind}
            case _:
                assert_never(event)

    def _media(self, timestamp_ms: int, payload: bytes) -> Fields:
        self._packets += 1
        packet, payload_text = str(self._packets), write_payload(payload)
        return {"track": TRACK, "chunk": packet, "timestamp": str(timestamp_ms), "payload": payload_text}

    def _stop(self) -> Mapping[str, str]:
        assert self._started is not None
        return {"accountSid": self._started.account_sid, "callSid": self._started.call_sid}


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
