"""Text tokens become words: Moshi's inner monologue, piece by piece.

Theory. A token is a piece of SentencePiece: "▁" stands for a space; a control piece says nothing; a byte piece is one
byte of a character that has no piece of its own, written "<0xE2>", and the bytes of one character may be spread over
several steps with padding in between. So bytes are collected until they are a whole character. What can never become
one is shown as U+FFFD: a transcript must not end a call.
"""

from codecs import getincrementaldecoder
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING

SPACE = "▁"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_Utf8Decoder = getincrementaldecoder("utf-8")


class Vocabulary:
    """The pieces of one tokenizer file, read once and shared by all calls."""

    def __init__(self, path: Path) -> None:
        """Read a SentencePiece model. Raises OSError or RuntimeError when the file is none."""
        self._model = SentencePieceProcessor(model_file=str(path))
        self.size = int(self._model.vocab_size())

    def byte(self, token: int) -> bytes:
        """Return the byte that a byte piece stands for, b"" for any other piece."""
        if not 0 <= token < self.size or not self._model.is_byte(token):
            return b""
        return bytes([int(self._model.id_to_piece(token)[1:-1], 16)])

    def words(self, token: int) -> str:
        """Return what a piece that is not a byte says, "" for padding and control pieces."""
        if not 0 <= token < self.size:
            return UNKNOWN
        if token in (TEXT_END_OF_PADDING, TEXT_PADDING) or self._model.is_control(token):
            return ""
        return str(self._model.id_to_piece(token)).replace(SPACE, " ")


class Pieces:
    """One call's stream of text tokens, as strings that read on from one another."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = _Utf8Decoder("replace")

    def push(self, token: int) -> str:
        """Return what this token adds to the transcript; never raises."""
        byte = self._vocabulary.byte(token)
        if byte:
            return self._bytes.decode(byte)
        words = self._vocabulary.words(token)
        return self.end() + words if words else ""

    def end(self) -> str:
        """Return U+FFFD when a character was left unfinished, else ""."""
        unfinished = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return unfinished
