"""The codec on rustymimi, the reference: one process serves all slots, one call after the other in a batch.

What its version 0.4.1 needs (measured): whole frames only; one `Tokenizer` per call and direction; `reset()` alone
leaves a trace of the last audio in the next frame, so a reset here is reset, one frame of zeros, reset. It raises
ValueError once `max_seq_len` positions of 40 ms are used up or for a wrong code, and works no more after that, so it is
made anew. It keeps about 98 MiB for each minute of a call.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rustymimi

from workers.codec.codec import CodecError, Row, frame_error, silence
from workers.codec.frame import POSITIONS
from workers.messages import CODEBOOKS, FRAME_S, Slot, Stage

_SPARE_FRAMES = 8


class RustymimiCodec:
    """An encoder or a decoder for `slots` calls of `max_call_s` seconds at most; see `Codec`."""

    def __init__(self, stage: Stage, weights: Path, slots: int, max_call_s: float, codebooks: int = CODEBOOKS) -> None:
        positions = (int(max_call_s / FRAME_S) + _SPARE_FRAMES) * POSITIONS
        self._calls = [TokenizerCall(stage, weights, positions, codebooks) for _ in range(slots)]

    def open(self, slot: Slot) -> None:
        self._calls[slot].reset()

    def close(self, slot: Slot) -> None:
        """Forget the call in a slot, which takes two frames' time."""
        self._calls[slot].reset()

    def run(self, frames: Mapping[Slot, Row]) -> dict[Slot, Row | CodecError]:
        return {slot: self._calls[slot].run(frame) for slot, frame in frames.items()}


class TokenizerCall:
    """One `rustymimi.Tokenizer`, for one direction of one call at a time."""

    def __init__(self, stage: Stage, weights: Path, positions: int, codebooks: int) -> None:
        self._stage, self._weights, self._positions, self._codebooks = stage, str(weights), positions, codebooks
        self._tokenizer: Any = None
        self._used = True
        self.reset()

    def reset(self) -> None:
        """Forget the call, if there was one."""
        if not self._used:
            return
        if self._tokenizer is None:
            sizes = {"num_codebooks": self._codebooks, "max_seq_len": self._positions}
            self._tokenizer = rustymimi.Tokenizer(self._weights, **sizes)
        self._tokenizer.reset()
        self._step(silence(self._stage))
        self._tokenizer.reset()
        self._used = False

    def run(self, frame: Row) -> Row | CodecError:
        if error := frame_error(self._stage, frame):
            return CodecError(error)
        if self._tokenizer is None:
            return CodecError("Mimi failed earlier in this call")
        self._used = True
        try:
            result = self._step(frame)
        except ValueError as error:
            self._tokenizer = None
            return CodecError(str(error).splitlines()[0])
        return result if np.isfinite(result).all() else CodecError("Mimi computed NaN or infinity")

    def _step(self, frame: Row) -> Row:
        result: Row
        if self._stage is Stage.ENCODE:
            result = self._tokenizer.encode_step(frame[None, None])[0, :, 0].astype(np.int32)
        else:
            result = self._tokenizer.decode_step(frame.astype(np.uint32)[None, :, None])[0, 0].astype(np.float32)
        return result
