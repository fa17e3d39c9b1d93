"""Text tokens become words: what Moshi says, piece by piece.

A token is a piece of SentencePiece: "▁" stands for a space; a control piece is no text; a byte piece, written "<0xE2>",
is one byte of a character that has no piece of its own, and the bytes of one character may be spread over several steps
with padding in between. So bytes are collected until they are a whole character. What can never become one is shown as
U+FFFD: a transcript must not end a call.
"""

from codecs import getincrementaldecoder
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_Utf8Decoder = getincrementaldecoder("utf-8")


class Vocabulary:
    """The pieces of one tokenizer file, read once and shared by all calls."""

    def __init__(self, path: Path) -> None:
        """Read a SentencePiece model. Raises OSError or RuntimeError when the file is none."""
        self._model = SentencePieceProcessor(model_file=str(path))
        self._size = int(self._model.vocab_size())

    def byte(self, token: int) -> bytes:
        """Return the byte that a byte piece stands for, b"" for any other piece."""
        if not 0 <= token < self._size or not self._model.is_byte(token):
            return b""
        return bytes([int(self._model.id_to_piece(token)[1:-1], 16)])

    def text(self, token: int) -> str:
        """Return the text of a piece that is not a byte, "" for padding and control pieces."""
        if not 0 <= token < self._size:
            return UNKNOWN
        if token in (TEXT_END_OF_PADDING, TEXT_PADDING) or self._model.is_control(token):
            return ""
        return str(self._model.id_to_piece(token)).replace("▁", " ")

    def words(self, text: str) -> list[list[int]]:
        """Return the tokens of each word of a text that Moshi can say, without what has no piece."""
        sayable = text.encode(errors="replace").decode()  # a lone surrogate has no UTF-8
        tokens = [token for token in self._model.encode(sayable) if self.byte(token) or self.text(token)]
        words: list[list[int]] = []
        for token in tokens:
            if words and self.continues_word(token):
                words[-1].append(token)
            else:
                words.append([token])
        return words

    def continues_word(self, token: int) -> bool:
        """Tell whether a piece goes on with the word before it."""
        text = self.text(token)
        return bool(self.byte(token) or (text and not text.startswith(" ")))


class TextDecoder:
    """One call's stream of text tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = _Utf8Decoder("replace")

    def decode(self, token: int) -> str:
        """Return what this token adds to the transcript; never raises."""
        if byte := self._vocabulary.byte(token):
            return self._bytes.decode(byte)
        text = self._vocabulary.text(token)
        if not text:
            return ""
        unfinished = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return unfinished + text
