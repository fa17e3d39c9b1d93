"""What a client reads of Moshi's protocol, and what it sends."""

from dataclasses import dataclass

from app.calls.chat_protocol import Kind


@dataclass(frozen=True, slots=True)
class Handshake:
    """The server is ready. PyTorch sends nothing more, Rust eight zero bytes: versions."""


@dataclass(frozen=True, slots=True)
class OggAudio:
    """Ogg/Opus, 24 kHz mono; a message need not hold whole pages."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TextPiece:
    text: str


@dataclass(frozen=True, slots=True)
class ErrorText:
    text: str


Message = Handshake | OggAudio | TextPiece | ErrorText


def parse(data: bytes | str) -> Message | None:
    """Return what a client acts on; None for everything else: other kinds, empty messages, text frames."""
    if isinstance(data, str) or not data:
        return None
    body = data[1:]
    match data[0]:
        case Kind.HANDSHAKE:
            return Handshake()
        case Kind.AUDIO:
            return OggAudio(body)
        case Kind.TEXT:
            return TextPiece(printable(body.decode("utf-8", "replace")))
        case Kind.ERROR:
            return ErrorText(printable(body.decode("utf-8", "replace")))
        case _:
            return None


def serialize_audio(ogg: bytes) -> bytes:
    return Kind.AUDIO.message(ogg)


def printable(text: str) -> str:
    """Return a server's text without what a terminal would obey: escape sequences, line ends."""
    return "".join(character for character in text.replace("\n", " ") if character.isprintable())
