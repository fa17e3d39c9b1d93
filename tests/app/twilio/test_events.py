import json

import pytest

from app.twilio.events import (
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
from app.twilio.wire import ProtocolViolation, Reason, parse_event
from tests.app.twilio.transcript import (
    ACCOUNT_SID,
    BY_KIND,
    CALL_SID,
    CONNECTED,
    DTMF,
    MARK,
    MEDIA,
    PARAMETERS,
    START,
    STOP,
    STREAM_SID,
    changed,
)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (CONNECTED, Connected()),
        (MEDIA, Media(5, b"\x9e\x8f\x89\x86\x86\x89\x8e\x9c")),
        (DTMF, DtmfPressed("1")),
        (MARK, MarkPlayed("my label")),
        (STOP, Stopped()),
        ('{"event": "transcript", "text": 5}', Unknown("transcript")),
    ],
)
def test_the_documented_messages_are_understood(message: str, event: Event) -> None:
    assert parse_event(json.loads(message)) == event


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        (START, PARAMETERS),
        (changed(START, "start.customParameters", ...), {}),
    ],
)
def test_the_start_carries_our_parameters(message: str, parameters: dict[str, str]) -> None:
    started = Started(StreamSid(STREAM_SID), CallSid(CALL_SID), ACCOUNT_SID, parameters)
    assert parse_event(json.loads(message)) == started


@pytest.mark.parametrize(
    ("message", "path", "value", "reason"),
    [
        (CONNECTED, "event", ..., Reason.BAD_FIELD),
        (CONNECTED, "event", ["connected"], Reason.BAD_FIELD),
        (START, "start", "yes", Reason.BAD_FIELD),
        (START, "start.callSid", "", Reason.BAD_FIELD),
        (START, "start.callSid", "CA\n2026 forged log line", Reason.BAD_FIELD),
        (START, "start.accountSid", ..., Reason.BAD_FIELD),
        (START, "start.streamSid", {}, Reason.BAD_FIELD),
        (START, "start.customParameters", {"a": None}, Reason.BAD_FIELD),
        (START, "start.tracks", ["inbound", "outbound"], Reason.WRONG_TRACK),
        (START, "start.tracks", [], Reason.WRONG_TRACK),
        (START, "start.tracks", "inbound", Reason.WRONG_TRACK),
        (START, "start.mediaFormat", ..., Reason.BAD_FIELD),
        (START, "start.mediaFormat.encoding", "audio/l16", Reason.WRONG_FORMAT),
        (START, "start.mediaFormat.sampleRate", 16_000, Reason.WRONG_FORMAT),
        (START, "start.mediaFormat.sampleRate", [8_000], Reason.WRONG_FORMAT),
        (START, "start.mediaFormat.channels", 2, Reason.WRONG_FORMAT),
        (MEDIA, "media", [], Reason.BAD_FIELD),
        (MEDIA, "media.track", "outbound", Reason.WRONG_TRACK),
        (MEDIA, "media.timestamp", "soon", Reason.BAD_FIELD),
        (MEDIA, "media.timestamp", "-20", Reason.BAD_FIELD),
        (MEDIA, "media.payload", "no+JhoaJjpz", Reason.BAD_PAYLOAD),
        (DTMF, "dtmf.digit", 1, Reason.BAD_FIELD),
        (MARK, "mark", "my label", Reason.BAD_FIELD),
        (MARK, "mark.name", f"0:{'9' * 5_000}", Reason.BAD_FIELD),
        (MARK, "mark.name", "9" * 101, Reason.BAD_FIELD),
    ],
)
def test_what_is_malformed_in_a_known_message_is_refused(
    message: str, path: str, value: object, reason: Reason
) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_event(json.loads(changed(message, path, value)))
    assert caught.value.reason is reason


@pytest.mark.parametrize("message", BY_KIND.values())
def test_fields_that_twilio_may_add_are_let_pass(message: str) -> None:
    assert parse_event(json.loads(changed(message, "new", {"deep": [1]}))) == parse_event(json.loads(message))
