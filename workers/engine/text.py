"""Text tokens become words: what Moshi says, piece by piece.

A token is a piece of SentencePiece: "▁" stands for a space; a control piece is no text; a byte piece, written "<0xE2>",
is one byte of a character that has no piece of its own, and the bytes of one character may be spread over several steps
with padding in between. What can never become a character is shown as U+FFFD: a transcript must not end a call.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING

UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()
DecodeText = Callable[[int], str]
"""Returns what a text token adds to one call's transcript."""


def read_pieces(path: Path) -> list[bytes]:
    """Return the UTF-8 of every token of a SentencePiece model. Raises OSError or RuntimeError when it is none."""
    model = SentencePieceProcessor(model_file=str(path))
    return [_utf8(model, token) for token in range(model.vocab_size())]


def text_decoder(pieces: list[bytes]) -> DecodeText:
    """Return the decoder of one call; it never raises."""
    utf8 = getincrementaldecoder("utf-8")("replace")
    return lambda token: utf8.decode(pieces[token] if 0 <= token < len(pieces) else UNKNOWN)


def _utf8(model: SentencePieceProcessor, token: int) -> bytes:
    if token in (TEXT_END_OF_PADDING, TEXT_PADDING) or model.is_control(token):
        return b""
    piece = str(model.id_to_piece(token))
    return bytes([int(piece[1:-1], 16)]) if model.is_byte(token) else piece.replace("▁", " ").encode()
