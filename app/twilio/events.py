"""Twilio's messages on the media socket: one frozen dataclass for each kind.

Shapes: https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from app.twilio.wire import (
    Fields,
    ProtocolViolation,
    Reason,
    bad_field,
    read_count,
    read_object,
    read_payload,
    read_text,
    read_texts,
)

CallSid = NewType("CallSid", str)
StreamSid = NewType("StreamSid", str)

RATE_HZ = 8_000
ENCODING = "audio/x-mulaw"
CHANNELS = 1
TRACK = "inbound"
MAX_MARK_LENGTH = 100
"""Marks come back as we have sent them, and ours are shorter."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket is up; the first message."""

    version: str = "1.0.0"


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
    sequence: int = 0


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


def parse_event(fields: Fields) -> Event:
    """Return the event that a message stands for; raises `ProtocolViolation`."""
    match read_text(fields, "event"):
        case "media":
            return _parse_media(fields)
        case "mark":
            return _parse_mark(fields)
        case "dtmf":
            return DtmfPressed(read_text(read_object(fields, "dtmf"), "digit"))
        case "connected":
            return Connected(read_text(fields, "version"))
        case "start":
            return _parse_started(fields)
        case "stop":
            read_object(fields, "stop")
            return Stopped()
        case kind:
            return Unknown(kind)


def _parse_media(fields: Fields) -> Media:
    media = read_object(fields, "media")
    if media.get("track") != TRACK:
        raise ProtocolViolation(Reason.WRONG_TRACK, "Media of a track other than the caller's.")
    return Media(read_count(media, "timestamp"), read_payload(media, "payload"), read_count(fields, "sequenceNumber"))


def _parse_mark(fields: Fields) -> MarkPlayed:
    name = read_text(read_object(fields, "mark"), "name")
    if len(name) > MAX_MARK_LENGTH:
        raise bad_field("name", f"a mark of ours, which has {MAX_MARK_LENGTH} characters at most")
    return MarkPlayed(name)


def _parse_started(fields: Fields) -> Started:
    start = read_object(fields, "start")
    if start.get("tracks") != [TRACK]:
        raise ProtocolViolation(Reason.WRONG_TRACK, "The stream must carry the caller's track and no other.")
    media_format = read_object(start, "mediaFormat")
    offered = tuple(media_format.get(key) for key in ("encoding", "sampleRate", "channels"))
    if offered != (ENCODING, RATE_HZ, CHANNELS):
        sentence = f"The stream must be {ENCODING}, {RATE_HZ} Hz, {CHANNELS} channel."
        raise ProtocolViolation(Reason.WRONG_FORMAT, sentence)
    return Started(
        StreamSid(read_text(start, "streamSid")),
        CallSid(read_text(start, "callSid")),
        read_text(start, "accountSid"),
        read_texts(start, "customParameters"),
    )
