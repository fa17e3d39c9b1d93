"""Twilio's messages on the media socket: one frozen dataclass for each kind.

Shapes: https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from app.twilio import wire

CallSid = NewType("CallSid", str)
StreamSid = NewType("StreamSid", str)

RATE_HZ = 8_000
TRACK = "inbound"
MEDIA_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": RATE_HZ, "channels": 1}
MAX_MARK_LENGTH = 100
"""Marks come back as we have sent them, and ours are shorter."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket is up; the first message."""


@dataclass(frozen=True, slots=True)
class Started:
    """The stream begins; `parameters` are those of our own TwiML."""

    stream_sid: StreamSid
    call_sid: CallSid
    account_sid: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Media:
    """One packet of the caller's: mu-law at 8 kHz, `timestamp_ms` after the start of the stream.

    The timestamp is the caller's clock: a jump means silence, not that no time went by.
    """

    timestamp_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DtmfPressed:
    """The caller pressed a key: 0-9, *, # or A-D."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkPlayed:
    """Everything before our mark has been played, or was cleared: Twilio does not say which."""

    name: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The call has left the stream; Twilio closes the socket next."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A kind of message that is not known here: Twilio may add some."""

    kind: str


Event = Connected | Started | Media | DtmfPressed | MarkPlayed | Stopped | Unknown


def parse_event(fields: wire.Fields) -> Event:
    """Return the event that a message stands for; raises `ProtocolViolation`."""
    match wire.read_text(fields, "event"):
        case "media":
            return _parse_media(wire.read_object(fields, "media"))
        case "mark":
            name = wire.read_text(wire.read_object(fields, "mark"), "name")
            if len(name) > MAX_MARK_LENGTH:
                raise wire.bad_field("name", f"a mark of ours, which has {MAX_MARK_LENGTH} characters at most")
            return MarkPlayed(name)
        case "dtmf":
            return DtmfPressed(wire.read_text(wire.read_object(fields, "dtmf"), "digit"))
        case "connected":
            return Connected()
        case "start":
            return _parse_start(wire.read_object(fields, "start"))
        case "stop":
            return Stopped()
        case kind:
            return Unknown(kind)


def _parse_media(media: wire.Fields) -> Media:
    if media.get("track") != TRACK:
        raise wire.ProtocolViolation(wire.Reason.WRONG_TRACK, "Media of a track other than the caller's.")
    return Media(wire.read_count(media, "timestamp"), wire.read_payload(media, "payload"))


def _parse_start(start: wire.Fields) -> Started:
    if start.get("tracks") != [TRACK]:
        raise wire.ProtocolViolation(wire.Reason.WRONG_TRACK, "The stream must carry the caller's track and no other.")
    offered = wire.read_object(start, "mediaFormat")
    if {key: offered.get(key) for key in MEDIA_FORMAT} != MEDIA_FORMAT:
        raise wire.ProtocolViolation(wire.Reason.WRONG_FORMAT, f"The stream must be {MEDIA_FORMAT}.")
    return Started(
        StreamSid(wire.read_text(start, "streamSid")),
        CallSid(wire.read_text(start, "callSid")),
        wire.read_text(start, "accountSid"),
        wire.read_texts(start, "customParameters"),
    )
