"""What Twilio's messages on the media socket say: one frozen dataclass for each kind. `wire` reads them.

Shapes: https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

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
