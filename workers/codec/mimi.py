"""Our Mimi for many calls, one frame of some of them at a time.

A `MimiStep` is one library's way to advance some rows by one frame; it trusts what it is given. `Mimi` checks each
frame before any row has moved, and each result: a frame that no row may take, or a row that computed NaN or infinity,
gives that call a `CodecError` and leaves the others alone. Such a row is cleared when its slot is opened again.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.codec.codec import CodecError, Row, frame_error, silence
from workers.codec.state import CodecState, Rows
from workers.messages import Slot, Stage


class MimiStep(Protocol):
    """One direction of a fixed number of rows, computed by one library."""

    state: CodecState

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Advance these rows by one frame, x row by row, and return what comes out in the same order."""

    def warm(self, frame: Row) -> None:
        """Do the work that the first steps would have to wait for, with any frame."""


class Mimi:
    """An encoder or a decoder; see `Codec`."""

    def __init__(self, stage: Stage, step: MimiStep) -> None:
        self._stage, self._step = stage, step
        self._dtype = np.float32 if stage is Stage.DECODE else np.int32
        self._not_finite: set[Slot] = set()
        self.slots = len(step.state.position)
        self.bytes_per_call = step.state.bytes_per_call

    def warm(self) -> None:
        """Do the work that the first frames would have to wait for. No slot may be in use."""
        self._step.warm(silence(self._stage))

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot. It costs next to nothing."""
        if slot in self._not_finite:
            self._step.state.zero(slot)
            self._not_finite.discard(slot)
        self._step.state.open(slot)

    def close(self, slot: Slot) -> None: ...

    def run(self, frames: Mapping[Slot, Row]) -> dict[Slot, Row | CodecError]:
        """Return codes of PCM or PCM of codes for the slots named, or errors; other slots stay as they are."""
        reasons = {slot: self._error(slot, frame) for slot, frame in frames.items()}
        outcome: dict[Slot, Row | CodecError] = {slot: CodecError(reason) for slot, reason in reasons.items() if reason}
        good = [slot for slot, reason in reasons.items() if not reason]
        if good:
            results = self._step.run(np.array(good, np.intp), np.stack([frames[slot] for slot in good]))
            outcome |= zip(good, results[0].astype(self._dtype, copy=False), strict=True)
            for slot, finite in zip(good, np.isfinite(results[-1]).all(axis=1), strict=True):
                if not finite:
                    self._not_finite.add(slot)
                    outcome[slot] = CodecError("Mimi computed NaN or infinity")
        return outcome

    def _error(self, slot: Slot, frame: Row) -> str:
        return frame_error(self._stage, frame) if 0 <= slot < self.slots else f"not one of {self.slots}"
