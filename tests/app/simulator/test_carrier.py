"""Both ends of the protocol against each other."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.simulator.carrier import CarrierProtocol, ClearBuffer, Play, ServerEvent, SetMark
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
from app.twilio.protocol import StreamProtocol, StreamState
from app.twilio.wire import ProtocolMisuse, ProtocolViolation, Reason
from tests.app.twilio.transcript import ACCOUNT_SID, BY_KIND, CALL_SID, PARAMETERS, STREAM_SID

STARTED = Started(StreamSid(STREAM_SID), CallSid(CALL_SID), ACCOUNT_SID, PARAMETERS)
PAYLOAD = b"\x9e\x8f\x89\x86\x86\x89\x8e\x9c"

printable = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]))
starts = st.builds(
    Started, printable.map(StreamSid), printable.map(CallSid), printable, st.dictionaries(texts, texts, max_size=3)
)
during = st.lists(
    st.builds(Media, st.integers(0, 10**9), st.binary(max_size=800))
    | st.builds(DtmfPressed, printable)
    | st.builds(MarkPlayed, printable)
    | st.builds(Unknown, printable.filter(lambda kind: kind not in BY_KIND))
)
wanted = st.builds(Play, st.binary(max_size=800)) | st.builds(SetMark, printable) | st.just(ClearBuffer())


def ends(started: Started = STARTED) -> tuple[CarrierProtocol, StreamProtocol]:
    carrier, server = CarrierProtocol(), StreamProtocol()
    for event in (Connected(), started):
        server.receive(carrier.send(event))
    return carrier, server


def test_twilios_messages_are_the_documented_ones() -> None:
    carrier = CarrierProtocol()
    opening: list[Event] = [
        Connected(),
        STARTED,
        Unknown("novelty"),
        Media(5, PAYLOAD),
        MarkPlayed("my label"),
        DtmfPressed("1"),
    ]
    written = {json.loads(text)["event"]: json.loads(text) for text in map(carrier.send, [*opening, Stopped()])}
    documented = {kind: json.loads(message) for kind, message in BY_KIND.items()}
    documented["stop"]["sequenceNumber"] = "6"  # messages are counted, packets apart: media's chunk is 1
    del written["novelty"]
    assert written == documented


@settings(max_examples=40)  # each a whole stream
@given(starts, during)
def test_the_server_receives_what_twilio_sends(started: Started, events: list[Event]) -> None:
    carrier, server = CarrierProtocol(), StreamProtocol()
    said = [Connected(), started, *events, Stopped()]
    assert [server.receive(carrier.send(event)) for event in said] == said
    assert carrier.state is server.state is StreamState.STOPPED


@given(starts, st.lists(wanted))
def test_twilio_receives_what_the_server_sends(started: Started, events: list[ServerEvent]) -> None:
    carrier, server = ends(started)
    for event in events:
        match event:
            case Play(payload):
                message = server.media(payload)
            case SetMark(name):
                message = server.mark(name)
            case ClearBuffer():
                message = server.clear()
        assert carrier.receive(message) == event


@given(st.lists(st.sampled_from([Connected(), STARTED, Media(0, b""), MarkPlayed("m"), Stopped(), Unknown("n")])))
def test_what_twilio_may_send_the_server_accepts_and_nothing_else_goes_out(events: list[Event]) -> None:
    carrier, server = CarrierProtocol(), StreamProtocol()
    for event in events:
        try:
            message = carrier.send(event)
        except ProtocolMisuse:
            continue
        server.receive(message)
        assert carrier.state is server.state


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{}", Reason.BINARY_FRAME),
        ("nonsense", Reason.NOT_JSON),
        ({"event": "media", "streamSid": "MZother", "media": {"payload": ""}}, Reason.WRONG_STREAM),
        ({"event": "media", "streamSid": STREAM_SID}, Reason.BAD_FIELD),
        ({"event": "media", "streamSid": STREAM_SID, "media": {"payload": "A"}}, Reason.BAD_PAYLOAD),
        ({"event": "media", "streamSid": STREAM_SID, "media": {"payload": "", "track": "o"}}, Reason.BAD_FIELD),
        ({"event": "media", "streamSid": STREAM_SID, "media": {"payload": ""}, "n": 1}, Reason.BAD_FIELD),
        ({"event": "mark", "streamSid": STREAM_SID, "mark": {}}, Reason.BAD_FIELD),
        ({"event": "clear", "streamSid": STREAM_SID, "clear": {}}, Reason.BAD_FIELD),
        ({"event": "dtmf", "streamSid": STREAM_SID}, Reason.BAD_FIELD),
        ({"streamSid": STREAM_SID}, Reason.BAD_FIELD),
    ],
)
def test_what_twilio_refuses(message: str | bytes | dict[str, object], reason: Reason) -> None:
    carrier, _ = ends()
    with pytest.raises(ProtocolViolation) as caught:
        carrier.receive(json.dumps(message) if isinstance(message, dict) else message)
    assert caught.value.reason is reason


def test_the_server_may_not_speak_first() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        CarrierProtocol().receive(json.dumps({"event": "clear", "streamSid": STREAM_SID}))
    assert caught.value.reason is Reason.OUT_OF_ORDER
