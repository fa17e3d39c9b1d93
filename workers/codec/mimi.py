"""Our Mimi for many calls, one frame of some of them at a time.

A `MimiStep` is one library's way to advance some rows by one frame; it trusts what it is given. `MimiEncoder` and
`MimiDecoder` check each frame before any row has moved, and each result: a frame that no row may take, or a row that
computed NaN or infinity, gives that call a `CodecError` and leaves the others alone. Such a row is cleared when its
slot is opened again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.codec.codec import CodecError
from workers.codec.state import CodecState, Rows
from workers.messages import FRAME_SAMPLES, CodeArray, Pcm, Slot, codes_error


class MimiStep(Protocol):
    """One direction of a fixed number of rows, computed by one library."""

    state: CodecState

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Advance these rows by one frame, x row by row, and return what comes out in the same order."""

    def warm(self) -> None:
        """Do the work that the first steps would have to wait for."""


class _MimiDirection:
    """What both directions have in common."""

    def __init__(self, step: MimiStep) -> None:
        self._step = step
        self._not_finite: set[Slot] = set()
        self.slots = len(step.state.position)
        self.bytes_per_call = step.state.bytes_per_call

    def warm(self) -> None:
        """Do the work that the first frames would have to wait for. No slot may be in use."""
        self._step.warm()

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot; nothing of the last one remains. It costs next to nothing."""
        if slot in self._not_finite:
            self._step.state.zero(slot)
            self._not_finite.discard(slot)
        self._step.state.open(slot)

    def close(self, slot: Slot) -> None: ...

    def _split(self, frames: Mapping[Slot, NDArray[Any]]) -> tuple[dict[Slot, NDArray[Any]], dict[Slot, CodecError]]:
        """Return the frames that rows may take, and the errors of the others."""
        errors: dict[Slot, CodecError] = {}
        for slot, frame in frames.items():
            if reason := self._error(frame) if 0 <= slot < self.slots else f"not one of {self.slots}":
                errors[slot] = CodecError(reason)
        return {slot: frame for slot, frame in frames.items() if slot not in errors}, errors

    def _error(self, frame: NDArray[Any]) -> str:
        raise NotImplementedError

    def _run(self, frames: Mapping[Slot, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        return self._step.run(np.array(list(frames), np.intp), np.stack(list(frames.values())))

    def _check_finite(self, slots: Iterable[Slot], results: NDArray[Any]) -> dict[Slot, CodecError]:
        finite = np.isfinite(results).all(axis=1)
        wrong = [slot for slot, fine in zip(slots, finite, strict=True) if not fine]
        self._not_finite.update(wrong)
        return {slot: CodecError("Mimi computed NaN or infinity") for slot in wrong}


class MimiEncoder(_MimiDirection):
    def encode(self, frames: Mapping[Slot, Pcm]) -> dict[Slot, CodeArray | CodecError]:
        """Return the codes (8,) of the next frame, float32 (1920,), of each slot named; the others stay as they are.

        In place of its codes a slot may get the error with which its call must end.
        """
        good, errors = self._split(frames)
        if not good:
            return {**errors}
        codes, latent = self._run(good)
        return dict(zip(good, codes.astype(np.int32), strict=True)) | self._check_finite(good, latent) | errors

    def _error(self, frame: Pcm) -> str:
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            return f"a frame is {FRAME_SAMPLES} float32, not {frame.dtype} of shape {frame.shape}"
        return "" if np.isfinite(frame).all() else "a sample is not a finite number"


class MimiDecoder(_MimiDirection):
    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm | CodecError]:
        """Return the next frame, float32 (1920,), of the codes (8,) of each slot named; the others stay as they are.

        In place of its frame a slot may get the error with which its call must end.
        """
        good, errors = self._split(codes)
        if not good:
            return {**errors}
        (pcm,) = self._run(good)
        return dict(zip(good, pcm, strict=True)) | self._check_finite(good, pcm) | errors

    def _error(self, frame: CodeArray) -> str:
        return codes_error(frame)
