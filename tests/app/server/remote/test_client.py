"""The client's side of the protocol, without a socket and in virtual time."""

import numpy as np
import pytest

from app.server.remote.client import ChatClient, DecodedAudio, ServerSilent
from app.server.remote.messages import ErrorText, Handshake, TextPiece
from tests.app.cli.talk.tones import pages, tone, tone_s

AUDIO = [b"\x01" + page for page in pages(0.4)]


def ready(now: float = 0.0) -> ChatClient:
    client = ChatClient(now, live=True)
    assert client.receive(b"\x00", now) == Handshake()
    return client


def heard(client: ChatClient, messages: list[bytes]) -> float:
    events = [client.receive(message, 0.0) for message in messages]
    return tone_s(np.concatenate([event.samples for event in events if isinstance(event, DecodedAudio)]))


def test_sound_is_sent_and_heard_after_the_handshake() -> None:
    client, server = ready(), ready()
    client.add_audio(tone(0.08))
    messages = [message for message, _ in client.send(0.0)]
    assert len(messages) == 2
    assert heard(server, messages) > 0.05


def test_what_is_said_before_the_handshake_is_never_sent() -> None:
    client = ChatClient(0.0, live=True)
    client.add_audio(tone(0.1))
    assert client.send(0.0) == []
    client.receive(b"\x00", 1.0)
    assert client.send(1.0) == []


def test_what_comes_before_the_handshake_is_skipped() -> None:
    client = ChatClient(0.0, live=True)
    before = [b"\x04{}", b"\x02 early", b"\x06", b"\x03\x00", *AUDIO[:5]]
    assert [client.receive(message, 0.0) for message in before] == [None] * len(before)
    assert client.receive(bytes(9), 0.0) == Handshake()
    assert heard(client, AUDIO[5:]) > 0.15, "though the headers were skipped"


def test_a_second_handshake_changes_nothing() -> None:
    assert ready().receive(b"\x00", 0.0) is None


def test_text_and_errors() -> None:
    client = ready()
    assert client.receive(b"\x02 Hello", 0.0) == TextPiece(" Hello")
    assert client.receive(b"\x05full", 0.0) == ErrorText("full")
    assert ChatClient(0.0, live=True).receive(b"\x05full", 0.0) == ErrorText("full")


def test_a_server_that_sends_nothing_for_ten_seconds_is_gone() -> None:
    client = ready(now=100.0)
    client.check(110.0)
    client.receive(b"\x06", 109.0)
    client.check(119.0)
    with pytest.raises(ServerSilent, match="10 s"):
        client.check(119.1)


def test_a_server_may_take_a_minute_to_get_ready_and_longer_with_pings() -> None:
    client = ChatClient(100.0, live=True)
    client.check(160.0)
    client.receive(b"\x06", 159.0)
    client.check(219.0)
    with pytest.raises(ServerSilent, match="another conversation"):
        client.check(219.1)
