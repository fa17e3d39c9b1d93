"""Text tokens become words: what Moshi says, piece by piece.

A token is a piece of SentencePiece: "▁" stands for a space; a control piece is no text; a byte piece, written "<0xE2>",
is one byte of a character that has no piece of its own, and the bytes of one character may be spread over several steps
with padding in between. What can never become a character is shown as U+FFFD: a transcript must not end a call.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.engine.delay_pattern import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.engine.steering import WordPart

MOST_PIECES = 64
"""A longer word, five seconds of pieces, is split: what is no word must not keep a sentence from ending."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()
_NO_CONTROL = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
_WORD_PARTS = {b"": WordPart.NONE, b" ": WordPart.BEGINNING}
DecodeText = Callable[[int], str]
"""Returns what a text token adds to one call's transcript."""


class Tokenizer:
    """The pieces of a SentencePiece model, read once and shared by all calls."""

    def __init__(self, path: Path) -> None:
        """Read a model. Raises OSError or RuntimeError when the file is none."""
        self._model = SentencePieceProcessor(model_file=str(path))
        self._pieces = [_utf8(self._model, token) for token in range(self._model.vocab_size())]
        self.word_parts = [_WORD_PARTS.get(piece[:1], WordPart.CONTINUATION) for piece in self._pieces]
        """What each piece is to a word."""

    def decoder(self) -> DecodeText:
        """Return the decoder of one call; it never raises."""
        utf8, pieces = getincrementaldecoder("utf-8")("replace"), self._pieces
        return lambda token: utf8.decode(pieces[token] if 0 <= token < len(pieces) else UNKNOWN)

    def words(self, text: str) -> list[list[int]]:
        """Return the tokens of each word of a text that Moshi can say, without what has no piece; never raises.

        A control character, a line end among them, counts as a space.
        """
        sayable = text.translate(_NO_CONTROL).encode(errors="replace").decode()  # a lone surrogate has no UTF-8
        words: list[list[int]] = []
        for token in self._model.encode(sayable):
            continues = words and self.word_parts[token] == WordPart.CONTINUATION
            if continues and len(words[-1]) < MOST_PIECES:
                words[-1].append(token)
            elif self._pieces[token]:
                words.append([token])
        return words

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self._model.encode(text.encode(errors="replace").decode()))


def _utf8(model: SentencePieceProcessor, token: int) -> bytes:
    if token in (TEXT_END_OF_PADDING, TEXT_PADDING) or model.is_control(token):
        return b""
    piece = str(model.id_to_piece(token))
    return bytes([int(piece[1:-1], 16)]) if model.is_byte(token) else piece.replace("▁", " ").encode()
