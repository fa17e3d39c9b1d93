"""JSON and base64 of the media stream, as Twilio writes them, and the events that they stand for.

All of it comes from the network. Whatever it holds (deep nesting, huge numbers, NaN, lone surrogates, half a base64
group), a reader returns a value of the promised type or raises `ProtocolViolation`, nothing else.
"""

import base64
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NoReturn

from app.twilio.events import (
    MAX_MARK_LENGTH,
    MEDIA_FORMAT,
    TRACK,
    CallSid,
    Connected,
    DtmfPressed,
    Event,
    MarkPlayed,
    Media,
    Started,
    Stopped,
    StreamSid,
    Unknown,
)

Fields = Mapping[str, object]
"""One JSON object with unchecked values."""

COUNT_DIGITS = 12
"""Twilio's counters are decimal strings; a call of four hours needs eight digits of milliseconds."""


class Reason(StrEnum):
    """Why a message was refused; for metrics and logs."""

    BINARY_FRAME = "binary-frame"
    TOO_LARGE = "too-large"
    NOT_JSON = "not-json"
    NOT_AN_OBJECT = "not-an-object"
    BAD_FIELD = "bad-field"
    BAD_PAYLOAD = "bad-payload"
    OUT_OF_ORDER = "out-of-order"
    WRONG_STREAM = "wrong-stream"
    WRONG_FORMAT = "wrong-format"
    WRONG_TRACK = "wrong-track"


class ProtocolViolation(Exception):
    """The peer broke the rules: end this call, log one line, carry on."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ProtocolMisuse(Exception):
    """We broke the rules, for example by sending before the stream started: a bug of ours, fail loudly."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""JSON can hold half a surrogate pair, which cannot be written as UTF-8."""


def read_message(message: str | bytes, max_bytes: int) -> Fields:
    """Parse one WebSocket message into the JSON object it holds.

    Raises `ProtocolViolation` when it is binary, longer than `max_bytes` as UTF-8, no JSON, or no object.
    """
    if not isinstance(message, str):
        raise ProtocolViolation(Reason.BINARY_FRAME, "Every message must be text, this one is binary.")
    if len(message.encode("utf-8", "surrogatepass")) > max_bytes:
        raise ProtocolViolation(Reason.TOO_LARGE, f"The message is longer than {max_bytes} bytes.")
    try:
        value = _DECODER.decode(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(Reason.NOT_JSON, f"The message is not JSON ({type(error).__name__}).") from error
    if not isinstance(value, dict):
        raise ProtocolViolation(Reason.NOT_AN_OBJECT, "The message is JSON, but not an object.")
    return value


def write_message(fields: Fields) -> str:
    return _ENCODER.encode(fields)


def read_object(fields: Fields, key: str) -> Fields:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise bad_field(key, "an object")
    return value


def read_text(fields: Fields, key: str) -> str:
    """Return the text under `key`: not empty, and printable, so that it may go into a log line as it is."""
    value = fields.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise bad_field(key, "printable text")
    return value


def read_texts(fields: Fields, key: str) -> dict[str, str]:
    """Return the object under `key`, all of whose values are text; {} when the key is missing."""
    texts: dict[str, str] = {}
    for name, value in (read_object(fields, key) if key in fields else {}).items():
        if not isinstance(value, str) or _HALF_PAIR.search(name + value):
            raise bad_field(key, "an object of texts")
        texts[name] = value
    return texts


def read_count(fields: Fields, key: str) -> int:
    """Return the number under `key`, which Twilio writes as a string of decimal digits."""
    value = fields.get(key)
    text = str(value) if type(value) is int and 0 <= value < 10**COUNT_DIGITS else value
    if not isinstance(text, str) or len(text) > COUNT_DIGITS or not (text.isascii() and text.isdecimal()):
        raise bad_field(key, "a string of decimal digits")
    return int(text)


def read_payload(fields: Fields, key: str) -> bytes:
    """Return the bytes under `key`, which Twilio writes as base64 with padding."""
    value = fields.get(key)
    if not isinstance(value, str):
        raise ProtocolViolation(Reason.BAD_PAYLOAD, f"'{key}' is not text.")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ProtocolViolation(Reason.BAD_PAYLOAD, f"'{key}' is not base64.") from error


def write_payload(payload: bytes) -> str:
    return base64.b64encode(payload).decode("ascii")


def bad_field(key: str, wanted: str) -> ProtocolViolation:
    """Return the violation that says what `key` should have held."""
    return ProtocolViolation(Reason.BAD_FIELD, f"'{key}' is not {wanted}.")


def parse_event(fields: Fields) -> Event:
    """Return the event that a message stands for; raises `ProtocolViolation`."""
    match read_text(fields, "event"):
        case "media":
            return _parse_media(read_object(fields, "media"))
        case "mark":
            name = read_text(read_object(fields, "mark"), "name")
            if len(name) > MAX_MARK_LENGTH:
                raise bad_field("name", f"a mark of ours, which has {MAX_MARK_LENGTH} characters at most")
            return MarkPlayed(name)
        case "dtmf":
            return DtmfPressed(read_text(read_object(fields, "dtmf"), "digit"))
        case "connected":
            return Connected()
        case "start":
            return _parse_start(read_object(fields, "start"))
        case "stop":
            return Stopped()
        case kind:
            return Unknown(kind)


def _parse_media(media: Fields) -> Media:
    if media.get("track") != TRACK:
        raise ProtocolViolation(Reason.WRONG_TRACK, "Media of a track other than the caller's.")
    return Media(read_count(media, "timestamp"), read_payload(media, "payload"))


def _parse_start(start: Fields) -> Started:
    if start.get("tracks") != [TRACK]:
        raise ProtocolViolation(Reason.WRONG_TRACK, "The stream must carry the caller's track and no other.")
    offered = read_object(start, "mediaFormat")
    if {key: offered.get(key) for key in MEDIA_FORMAT} != MEDIA_FORMAT:
        raise ProtocolViolation(Reason.WRONG_FORMAT, f"The stream must be {MEDIA_FORMAT}.")
    return Started(
        StreamSid(read_text(start, "streamSid")),
        CallSid(read_text(start, "callSid")),
        read_text(start, "accountSid"),
        read_texts(start, "customParameters"),
    )
