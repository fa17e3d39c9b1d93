"""The codec on rustymimi, the reference: one process serves all slots, one call after the other in a batch.

What its version 0.4.1 needs (measured): whole frames only; one `Tokenizer` per call and direction; `reset()` alone
leaves a trace of the last audio in the next frame, so a reset here is reset, one frame of zeros, reset. It raises
ValueError once `max_seq_len` positions of 40 ms are used up or for a wrong code, and works no more after that, so it is
made anew. It keeps about 98 MiB for each minute of a call.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rustymimi
from numpy.typing import NDArray

from workers.codec.codec import CodecError
from workers.codec.frame import POSITIONS
from workers.messages import CODEBOOKS, FRAME_S, FRAME_SAMPLES, CodeArray, Pcm, Slot, codes_error

Tokenizer = Any
"""A `rustymimi.Tokenizer`, which has no types."""
Step = Callable[[Tokenizer], NDArray[np.generic]]
_SPARE_FRAMES = 8


class _SlotTokenizer:
    """One rustymimi `Tokenizer`, for one direction of one call at a time; `clear` feeds it a frame of zeros."""

    def __init__(self, weights: Path, positions: int, clear: Step) -> None:
        self._weights, self._positions, self._clear = str(weights), positions, clear
        self._tokenizer: Tokenizer | None = None
        self._used = True
        self.reset()

    def reset(self) -> None:
        """Forget the call, if there was one."""
        if not self._used:
            return
        if self._tokenizer is None:
            positions, weights = self._positions, self._weights
            self._tokenizer = rustymimi.Tokenizer(weights, num_codebooks=CODEBOOKS, max_seq_len=positions)
        self._tokenizer.reset()
        self._clear(self._tokenizer)
        self._tokenizer.reset()
        self._used = False

    def step(self, step: Step) -> NDArray[np.generic] | CodecError:
        """Return the result of `step` on the tokenizer, or why it has none."""
        self._used = True
        if self._tokenizer is None:
            return CodecError("Mimi failed earlier in this call")
        try:
            return step(self._tokenizer)
        except ValueError as error:
            self._tokenizer = None
            return CodecError(str(error).splitlines()[0])


class _RustymimiDirection:
    def __init__(self, weights: Path, slots: int, max_call_s: float, clear: Step) -> None:
        positions = (int(max_call_s / FRAME_S) + _SPARE_FRAMES) * POSITIONS
        self._tokenizers = {slot: _SlotTokenizer(weights, positions, clear) for slot in map(Slot, range(slots))}

    def open(self, slot: Slot) -> None:
        self._tokenizers[slot].reset()

    def close(self, slot: Slot) -> None:
        """Forget the call in a slot, which takes two frames' time."""
        self._tokenizers[slot].reset()


class RustymimiEncoder(_RustymimiDirection):
    def __init__(self, weights: Path, slots: int, max_call_s: float) -> None:
        zeros = np.zeros((1, 1, FRAME_SAMPLES), np.float32)
        super().__init__(weights, slots, max_call_s, lambda tokenizer: tokenizer.encode_step(zeros))

    def encode(self, frames: Mapping[Slot, Pcm]) -> dict[Slot, CodeArray | CodecError]:
        return {slot: self._encode(slot, frame) for slot, frame in frames.items()}

    def _encode(self, slot: Slot, frame: Pcm) -> CodeArray | CodecError:
        if frame.shape != (FRAME_SAMPLES,) or not np.isfinite(frame).all():
            return CodecError(f"not a frame of {FRAME_SAMPLES} finite samples")
        codes = self._tokenizers[slot].step(lambda tokenizer: tokenizer.encode_step(frame[None, None]))
        return codes if isinstance(codes, CodecError) else codes[0, :, 0].astype(np.int32)


class RustymimiDecoder(_RustymimiDirection):
    def __init__(self, weights: Path, slots: int, max_call_s: float) -> None:
        zeros = np.zeros((1, CODEBOOKS, 1), np.uint32)
        super().__init__(weights, slots, max_call_s, lambda tokenizer: tokenizer.decode_step(zeros))

    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm | CodecError]:
        return {slot: self._decode(slot, frame) for slot, frame in codes.items()}

    def _decode(self, slot: Slot, codes: CodeArray) -> Pcm | CodecError:
        if error := codes_error(codes):
            return CodecError(error)
        pcm = self._tokenizers[slot].step(lambda one: one.decode_step(codes.astype(np.uint32)[None, :, None]))
        if isinstance(pcm, CodecError):
            return pcm
        frame: Pcm = pcm[0, 0].astype(np.float32)
        return frame if np.isfinite(frame).all() else CodecError("Mimi computed NaN or infinity")
