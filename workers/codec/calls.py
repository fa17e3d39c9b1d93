"""The codec as its users see it: many calls, each at its own place, one frame of some of them at a time.

Theory of operation. A `Step` is one library's way to let some rows advance by one frame; it holds weights and state
and trusts what it is given. `Encoder` and `Decoder` check each frame once, before any row has moved, and each result:
a frame that no row may take, or a row that computed something else than numbers, gives that call a `CodecError` and
leaves the others alone. Such a row is cleared when its slot is opened again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.codec.error import CodecError
from workers.codec.state import Rows
from workers.codec.weights import CODES
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CodeArray, Pcm, Slot


class Step(Protocol):
    """One direction of a fixed number of rows, computed by one library."""

    slots: int
    bytes_per_call: int

    def open(self, slot: int) -> None:
        """Begin a call in this row; must cost next to nothing."""

    def scrub(self, slot: int) -> None:
        """Clear a row that may hold something else than numbers."""

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Let these rows advance by one frame, x row by row, and return what comes out in the same order."""

    def warm(self) -> None:
        """Do beforehand whatever the first steps would have to wait for."""


class _Calls:
    """What both directions have in common."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._spoilt: set[Slot] = set()
        self.slots = step.slots

    @property
    def bytes_per_call(self) -> int:
        """Return what one slot takes in this direction, beside the weights that all share."""
        return self._step.bytes_per_call

    def warm(self) -> None:
        """Do beforehand whatever the first frames would have to wait for. No slot may be in use."""
        self._step.warm()

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot; nothing of the last one remains. It costs next to nothing."""
        if slot in self._spoilt:
            self._step.scrub(slot)
            self._spoilt.discard(slot)
        self._step.open(slot)

    def close(self, slot: Slot) -> None:
        """The call in a slot is over; `open` will see to what it leaves behind."""

    def _split(self, frames: Mapping[Slot, NDArray[Any]]) -> tuple[dict[Slot, NDArray[Any]], dict[Slot, CodecError]]:
        """Return the frames that rows may take, and the errors of the others."""
        errors = {
            slot: CodecError(reason) for slot, frame in frames.items() if (reason := self._objection(slot, frame))
        }
        return {slot: frame for slot, frame in frames.items() if slot not in errors}, errors

    def _objection(self, slot: Slot, frame: NDArray[Any]) -> str:
        raise NotImplementedError

    def _run(self, frames: Mapping[Slot, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        return self._step.run(np.array(list(frames), np.intp), np.stack(list(frames.values())))

    def _unsound(self, slots: Iterable[Slot], results: NDArray[Any]) -> dict[Slot, CodecError]:
        sound = np.isfinite(results).all(axis=1)
        unsound = [slot for slot, fine in zip(slots, sound, strict=True) if not fine]
        self._spoilt.update(unsound)
        return {slot: CodecError("what Mimi computed is not a number") for slot in unsound}


class Encoder(_Calls):
    """The caller's direction."""

    def encode(self, frames: Mapping[Slot, Pcm]) -> dict[Slot, CodeArray | CodecError]:
        """Return the codes (8,) of the next frame, float32 (1920,), of each slot named; the others stay as they are.

        In place of its codes a slot may get the error with which its call must end.
        """
        sound, errors = self._split(frames)
        if not sound:
            return {**errors}
        codes, latent = self._run(sound)
        return dict(zip(sound, codes, strict=True)) | self._unsound(sound, latent) | errors

    def _objection(self, slot: Slot, frame: Pcm) -> str:
        if not 0 <= slot < self.slots:
            return f"not one of {self.slots}"
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            return f"a frame is {FRAME_SAMPLES} float32, not {frame.dtype} of shape {frame.shape}"
        return "" if np.isfinite(frame).all() else "a sample is not a finite number"


class Decoder(_Calls):
    """Moshi's direction."""

    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm | CodecError]:
        """Return the next frame, float32 (1920,), of the codes (8,) of each slot named; the others stay as they are.

        In place of its frame a slot may get the error with which its call must end.
        """
        sound, errors = self._split(codes)
        if not sound:
            return {**errors}
        (pcm,) = self._run(sound)
        return dict(zip(sound, pcm, strict=True)) | self._unsound(sound, pcm) | errors

    def _objection(self, slot: Slot, frame: CodeArray) -> str:
        if not 0 <= slot < self.slots:
            return f"not one of {self.slots}"
        if frame.shape != (CODEBOOKS,) or frame.dtype.kind not in "iu":
            return f"a frame is {CODEBOOKS} integers, not {frame.dtype} of shape {frame.shape}"
        if frame.min() < 0 or frame.max() >= CODES:
            return f"a code is 0..{CODES - 1}, not {frame.tolist()}"
        return ""
