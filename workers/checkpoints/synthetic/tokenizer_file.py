"""Writing a sentencepiece model: the few protobuf fields that a reader needs.

Field numbers and meanings: `sentencepiece_model.proto` of google/sentencepiece. `ModelProto` holds the pieces (field
1), the trainer's settings (2) and the normalizer's (3); a piece has its text (1), a score (2) and a kind (3).
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

SPACE = "▁"


class Kind(IntEnum):
    """What a piece is; only NORMAL and BYTE decode to text."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


Piece = tuple[str, Kind]
SPECIAL: tuple[Piece, ...] = (
    ("<unk>", Kind.UNKNOWN),
    ("<s>", Kind.CONTROL),
    ("</s>", Kind.CONTROL),
    ("<pad>", Kind.CONTROL),
)
"""Ids 0 to 3 as in Kyutai's file: Moshi takes 0 for "a word follows" and 3 for padding."""
BYTES: tuple[Piece, ...] = tuple((f"<0x{byte:02X}>", Kind.BYTE) for byte in range(256))
"""A file with byte pieces must have all of them."""

_SCORE = -1.0
_VARINT, _LENGTH, _FIXED32 = 0, 2, 5
_UNIGRAM = 1


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(content)) + content


def _piece(text: str, kind: Kind) -> bytes:
    score = _varint(2 << 3 | _FIXED32) + struct.pack("<f", _SCORE)
    return _block(1, text.encode()) + score + _number(3, kind)


def _trainer(pieces: Sequence[Piece]) -> bytes:
    """model_type, vocab_size, byte_fallback; unk_id, bos_id, eos_id, pad_id."""
    fields = {3: _UNIGRAM, 4: len(pieces), 35: int(BYTES[0] in pieces), 40: 0, 41: 1, 42: 2, 43: 3}
    return b"".join(_number(field, value) for field, value in fields.items())


def write_tokenizer(path: Path, pieces: Sequence[Piece]) -> None:
    """Write the pieces, id 0 first; no text may come twice, and the first four are SPECIAL."""
    listed = b"".join(_block(1, _piece(text, kind)) for text, kind in pieces)
    path.write_bytes(listed + _block(2, _trainer(pieces)) + _block(3, _block(1, b"identity")))
