import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.twilio.events import Connected, Unknown
from app.twilio.protocol import MAX_MESSAGE_BYTES, StreamProtocol, StreamState
from app.twilio.wire import ProtocolMisuse, ProtocolViolation, Reason
from tests.app.twilio.transcript import BY_KIND, CONNECTED, DTMF, MARK, MEDIA, START, STOP, STREAM_SID, changed


def after(messages: list[str]) -> StreamProtocol:
    protocol = StreamProtocol()
    for message in messages:
        protocol.receive(message)
    return protocol


def streaming() -> StreamProtocol:
    return after([CONNECTED, START])


@pytest.mark.parametrize("message", [MEDIA, MARK, DTMF, STOP])
@pytest.mark.parametrize("stream_sid", ["MZother", None, ...])
def test_a_message_of_another_stream_is_refused(message: str, stream_sid: object) -> None:
    protocol = streaming()
    with pytest.raises(ProtocolViolation) as caught:
        protocol.receive(changed(message, "streamSid", stream_sid))
    assert caught.value.reason in (Reason.WRONG_STREAM, Reason.BAD_FIELD)


def test_a_start_that_names_two_streams_is_refused_and_starts_nothing() -> None:
    protocol = after([CONNECTED])
    with pytest.raises(ProtocolViolation) as caught:
        protocol.receive(changed(START, "streamSid", "MZother"))
    assert caught.value.reason is Reason.WRONG_STREAM
    assert (protocol.state, protocol.stream_sid) == (StreamState.CONNECTED, None)


def test_unknown_messages_are_let_pass_in_every_state() -> None:
    protocol = StreamProtocol()
    for message in (CONNECTED, START, STOP):
        assert protocol.receive('{"event": "novelty"}') == Unknown("novelty")
        protocol.receive(message)
    assert protocol.receive('{"event": "novelty"}') == Unknown("novelty")


def test_binary_and_long_messages_are_refused() -> None:
    protocol = StreamProtocol()
    for message, reason in (
        (CONNECTED.encode(), Reason.BINARY_FRAME),
        (CONNECTED.ljust(MAX_MESSAGE_BYTES + 1), Reason.TOO_LARGE),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            protocol.receive(message)
        assert caught.value.reason is reason
    assert protocol.receive(CONNECTED.ljust(MAX_MESSAGE_BYTES)) == Connected()


def test_our_messages_have_the_documented_shape_and_nothing_more() -> None:
    protocol = streaming()
    written = (protocol.media(b"\x9e\x8f\x89"), protocol.mark("my label"), protocol.clear())
    assert [json.loads(message) for message in written] == [
        {"event": "media", "streamSid": STREAM_SID, "media": {"payload": "no+J"}},
        {"event": "mark", "streamSid": STREAM_SID, "mark": {"name": "my label"}},
        {"event": "clear", "streamSid": STREAM_SID},
    ]


@pytest.mark.parametrize("before", [[], [CONNECTED]])
@pytest.mark.parametrize(
    "send", [lambda protocol: protocol.media(b""), lambda protocol: protocol.mark("m"), StreamProtocol.clear]
)
def test_sending_before_the_stream_is_our_own_mistake(before: list[str], send: Callable[[StreamProtocol], str]) -> None:
    with pytest.raises(ProtocolMisuse):
        send(after(before))


def test_what_crosses_with_the_stop_is_no_mistake() -> None:
    assert after([CONNECTED, START, STOP]).media(b"")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.sampled_from(list(BY_KIND)), max_size=12))
def test_any_order_follows_the_rules_or_is_a_violation(kinds: list[str]) -> None:
    """The rules once more, as a person would say them."""
    protocol = StreamProtocol()
    connected = started = stopped = False
    for kind in kinds:
        allowed = {"connected": not connected, "start": connected and not started}.get(kind, started and not stopped)
        if not allowed:
            state = protocol.state
            with pytest.raises(ProtocolViolation) as caught:
                protocol.receive(BY_KIND[kind])
            assert (caught.value.reason, protocol.state) == (Reason.OUT_OF_ORDER, state)
            continue
        protocol.receive(BY_KIND[kind])
        connected, started, stopped = connected or kind == "connected", started or kind == "start", kind == "stop"


def paths(fields: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in fields.items():
        found.append(prefix + key)
        found += paths(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


@st.composite
def damaged(draw: st.DrawFn) -> str:
    message = draw(st.sampled_from(list(BY_KIND.values())))
    path = draw(st.sampled_from(paths(json.loads(message))))
    return changed(message, path, draw(ANY_JSON | st.just(...)))


@settings(max_examples=40)  # each a list of messages, of which most are damaged
@given(
    st.lists(damaged() | ANY_JSON.map(json.dumps) | st.text() | st.binary() | st.sampled_from(list(BY_KIND.values())))
)
def test_no_garbage_raises_anything_but_a_violation(messages: list[str | bytes]) -> None:
    for protocol in (StreamProtocol(), streaming()):
        for message in messages:
            before = copy.copy(vars(protocol))
            try:
                protocol.receive(message)
            except ProtocolViolation:
                assert vars(protocol) == before
