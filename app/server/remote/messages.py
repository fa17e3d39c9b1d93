"""What a client reads of Moshi's protocol, and what it sends."""

from dataclasses import dataclass

from app.calls.chat_protocol import Kind


@dataclass(frozen=True, slots=True)
class Handshake:
    """The server is ready. PyTorch sends nothing more, Rust eight zero bytes: versions."""


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """Ogg/Opus, 24 kHz mono, of which a message need not hold whole pages; PCM of our own servers if asked for."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of what Moshi says: a word or a part of one, with the space before it."""

    text: str


@dataclass(frozen=True, slots=True)
class ErrorText:
    """What the server says that is wrong."""

    text: str


Message = Handshake | EncodedAudio | TextPiece | ErrorText


def parse(data: bytes | str) -> Message | None:
    """Return what a client acts on; None for everything else: other kinds, empty messages, text frames."""
    if isinstance(data, str) or not data:
        return None
    body = data[1:]
    match data[0]:
        case Kind.HANDSHAKE:
            return Handshake()
        case Kind.AUDIO:
            return EncodedAudio(body)
        case Kind.TEXT:
            return TextPiece(printable(body.decode("utf-8", "replace")))
        case Kind.ERROR:
            return ErrorText(printable(body.decode("utf-8", "replace")))
        case _:
            return None


def printable(text: str) -> str:
    """Return a server's text without what a terminal would obey: escape sequences, line ends."""
    return "".join(character for character in text.replace("\n", " ") if character.isprintable())
