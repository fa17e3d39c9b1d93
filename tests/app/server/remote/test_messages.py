"""Messages of a Moshi server, as a client reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.remote.messages import EncodedAudio, ErrorText, Handshake, Message, TextPiece, parse


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00", Handshake()),
        (b"\x00" + bytes(8), Handshake()),
        (b"\x01OggS", EncodedAudio(b"OggS")),
        (b"\x02 caf\xc3\xa9", TextPiece(" café")),
        (b"\x02\xff", TextPiece("\ufffd")),
        (b"\x05full", ErrorText("full")),
        (b"\x03\x00", None),
        (b"\x04{}", None),
        (b"\x06", None),
        (b"\x07\x00red", None),
        (b"\xff", None),
        (b"", None),
        ("text", None),
    ],
)
def test_every_kind(data: bytes | str, message: Message | None) -> None:
    assert parse(data) == message


def test_a_server_cannot_steer_the_terminal() -> None:
    assert parse(b"\x02\x1b[2J\x1b]0;title\x07 hello\r\n") == TextPiece("[2J]0;title hello ")


@given(st.binary() | st.text())
def test_no_message_raises(data: bytes | str) -> None:
    parse(data)
