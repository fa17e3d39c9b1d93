"""How messages look between two processes of ours: a length in four bytes, a kind in one, then the message.

`Frame` and `Codes`, of which a call sends 12.5 a second and link, are a fixed header and the bytes of the array: a
quarter of the time that pickle takes. Everything else is pickled; only processes that this service started itself hold
the other end.
"""

import pickle
from struct import Struct
from typing import Any

import numpy as np

from workers.messages import Codes, Epoch, Frame, Payload, Slot, Span, Stage

LENGTH = Struct(">I")
_PICKLED, _FRAME, _CODES = range(3)
_HEADER = Struct("<BiqqIBBHHI")
"""Kind, slot, epoch, seq, dropped, number of spans, type of the array (0: none), bytes of text, tokens, array."""
_SPAN = Struct("<Bdd")
_STAGES = tuple(Stage)
_STAGE_NUMBERS = {stage: number for number, stage in enumerate(Stage)}
_DTYPES = (np.dtype("<f4"), np.dtype("<i4"))


def serialize(message: object) -> bytes:
    """Return a message with its length. Arrays are 1-D, float32 or int32; raises ValueError for another type."""
    match message:
        case Frame():
            body = _serialize_audio(_FRAME, message, message.pcm)
        case Codes():
            body = _serialize_audio(_CODES, message, message.codes)
        case _:
            body = bytes([_PICKLED]) + pickle.dumps(message, protocol=5)
    return LENGTH.pack(len(body)) + body


def _serialize_audio(kind: int, message: Frame | Codes, array: Payload | None) -> bytes:
    text, number, data = message.text.encode(), 0, b""
    if array is not None:
        number, data = 1 + _DTYPES.index(array.dtype), array.tobytes()
    counts = len(message.spans), number, len(text), len(message.tokens), len(data)
    header = _HEADER.pack(kind, message.slot, message.epoch, message.seq, message.dropped, *counts)
    spans = [_SPAN.pack(_STAGE_NUMBERS[span.stage], span.started_s, span.ended_s) for span in message.spans]
    return b"".join((header, *spans, text, message.tokens, data))


def parse(body: memoryview) -> object:
    """Return the message of which this is all but the length."""
    if body[0] == _PICKLED:
        return pickle.loads(body[1:])  # noqa: S301
    kind, slot, epoch, seq, dropped, count, number, text_size, tokens_size, size = _HEADER.unpack_from(body)
    at = _HEADER.size + count * _SPAN.size
    spans = tuple(
        Span(_STAGES[stage], started_s, ended_s)
        for stage, started_s, ended_s in _SPAN.iter_unpack(body[_HEADER.size : at])
    )
    text, at = str(body[at : at + text_size], "utf-8"), at + text_size
    tokens, at = bytes(body[at : at + tokens_size]), at + tokens_size
    array: Any = np.frombuffer(bytes(body[at : at + size]), _DTYPES[number - 1]) if number else None
    make = Frame if kind == _FRAME else Codes
    return make(Slot(slot), Epoch(epoch), seq, array, text, dropped, spans, tokens)
