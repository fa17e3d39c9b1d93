"""Writing a sentencepiece model that holds given pieces."""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as protobuf

SPACE = "▁"


class PieceType(IntEnum):
    """What a piece is, as in `sentencepiece_model.proto`; only NORMAL, UNUSED and BYTE decode to text.

    No text is encoded as an UNUSED piece.
    """

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    UNUSED = 5
    BYTE = 6


Piece = tuple[str, PieceType]
SPECIAL: tuple[Piece, ...] = (
    ("<unk>", PieceType.UNKNOWN),
    ("<s>", PieceType.CONTROL),
    ("</s>", PieceType.CONTROL),
    ("<pad>", PieceType.CONTROL),
)
"""Ids 0 to 3 as in Kyutai's file."""
END_OF_PADDING, PADDING = 0, 3
"""What Moshi uses them for: a word follows; no word now."""
BYTES: tuple[Piece, ...] = tuple((f"<0x{byte:02X}>", PieceType.BYTE) for byte in range(256))
"""A file with byte pieces must have all of them."""


def write_tokenizer(path: Path, pieces: Sequence[Piece]) -> None:
    """Write the pieces, id 0 first; no text may come twice, and the first four are SPECIAL."""
    model = protobuf.ModelProto()
    for text, kind in pieces:
        model.pieces.add(piece=text, score=-1.0, type=int(kind))
    trainer = model.trainer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.UNIGRAM, len(pieces), BYTES[0] in pieces
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = range(4)
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())
