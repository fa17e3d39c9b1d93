"""The one door to rustymimi, the reference: one process serves all slots, one call after the other in a batch.

What its version 0.4.1 asks for (measured): whole frames only; one `Tokenizer` per call and direction; `reset()` alone
leaves a trace of the last audio in the next frame, so a reset here is reset, one frame of nothing, reset. It raises
ValueError once `max_seq_len` positions of 40 ms are used up or for a wrong code, and works no more after that, so it is
made anew. It keeps about 98 MiB for each minute of a call.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rustymimi
from numpy.typing import NDArray

from workers.codec.error import CodecError
from workers.messages import CODEBOOKS, FRAME_S, FRAME_SAMPLES, CodeArray, Pcm, Slot

_POSITIONS_A_FRAME = 2
_CODES = 2_048

Tokenizer = Any
"""A `rustymimi.Tokenizer`, which has no types."""
Nothing = Callable[[Tokenizer], object]


class _Line:
    """One rustymimi `Tokenizer`, for one direction of one call at a time; `nothing` feeds it a frame of nothing."""

    def __init__(self, weights: Path, positions: int, nothing: Nothing) -> None:
        self._weights, self._positions, self._nothing = str(weights), positions, nothing
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
        self._nothing(self._tokenizer)
        self._tokenizer.reset()
        self._used = False

    def step(self, step: Callable[[Tokenizer], NDArray[np.generic]]) -> NDArray[np.generic] | CodecError:
        """Return what `step` makes of the tokenizer, or why it cannot."""
        self._used = True
        if self._tokenizer is None:
            return CodecError("Mimi failed earlier in this call")
        try:
            return step(self._tokenizer)
        except ValueError as error:
            self._tokenizer = None
            return CodecError(str(error).splitlines()[0])


class _Lines:
    """A tokenizer for each slot."""

    def __init__(self, weights: Path, slots: int, max_call_s: float, nothing: Nothing) -> None:
        positions = (int(max_call_s / FRAME_S) + 8) * _POSITIONS_A_FRAME
        self._lines = {slot: _Line(weights, positions, nothing) for slot in map(Slot, range(slots))}

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot."""
        self._lines[slot].reset()

    def close(self, slot: Slot) -> None:
        """Forget the call in a slot, which takes two frames' time."""
        self._lines[slot].reset()


class MimiEncoder(_Lines):
    """The caller's direction."""

    def __init__(self, weights: Path, slots: int, max_call_s: float) -> None:
        """Load a tokenizer for each slot; a call may last `max_call_s`."""
        silence = np.zeros((1, 1, FRAME_SAMPLES), np.float32)
        super().__init__(weights, slots, max_call_s, lambda tokenizer: tokenizer.encode_step(silence))

    def encode(self, frames: Mapping[Slot, Pcm]) -> dict[Slot, CodeArray | CodecError]:
        """Return the codes (8,) of the next frame, float32 (1920,), of each slot named."""
        return {slot: self._encode(slot, frame) for slot, frame in frames.items()}

    def _encode(self, slot: Slot, frame: Pcm) -> CodeArray | CodecError:
        if frame.shape != (FRAME_SAMPLES,) or not np.isfinite(frame).all():
            return CodecError(f"not a frame of {FRAME_SAMPLES} finite samples")
        codes = self._lines[slot].step(lambda tokenizer: tokenizer.encode_step(frame[None, None]))
        return codes if isinstance(codes, CodecError) else codes[0, :, 0].astype(np.int32)


class MimiDecoder(_Lines):
    """Moshi's direction."""

    def __init__(self, weights: Path, slots: int, max_call_s: float) -> None:
        """Load a tokenizer for each slot; a call may last `max_call_s`."""
        zeros = np.zeros((1, CODEBOOKS, 1), np.uint32)
        super().__init__(weights, slots, max_call_s, lambda tokenizer: tokenizer.decode_step(zeros))

    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm | CodecError]:
        """Return the next frame, float32 (1920,), of the codes (8,) of each slot named."""
        return {slot: self._decode(slot, frame) for slot, frame in codes.items()}

    def _decode(self, slot: Slot, codes: CodeArray) -> Pcm | CodecError:
        if codes.shape != (CODEBOOKS,) or not ((codes >= 0) & (codes < _CODES)).all():
            return CodecError(f"not {CODEBOOKS} codes in 0..{_CODES - 1}")
        wanted = codes.astype(np.uint32)[None, :, None]
        pcm = self._lines[slot].step(lambda tokenizer: tokenizer.decode_step(wanted))
        if isinstance(pcm, CodecError):
            return pcm
        sound: Pcm = pcm[0, 0].astype(np.float32)
        return sound if np.isfinite(sound).all() else CodecError("what Mimi decoded is not a number")
