"""What a codec is: one direction, encoder or decoder, for a number of calls; and the line test's."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.messages import CODEBOOKS, CODES, FRAME_SAMPLES, CodeArray, Slot, Stage

Row = NDArray[Any]
"""One frame of one call: PCM, float32 (1920,), or codes, int32 (8,)."""


class CodecError(Exception):
    """This call's audio cannot be encoded or decoded any further; other calls are not affected."""


class Codec(Protocol):
    """An encoder makes codes of PCM, a decoder PCM of codes."""

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot; nothing of the last one remains."""

    def close(self, slot: Slot) -> None:
        """End the call in a slot, with the work that `open` should not have to wait for."""

    def run(self, frames: Mapping[Slot, Row]) -> Mapping[Slot, Row | CodecError]:
        """Return what the next frame of each slot named becomes, or the error with which its call must end."""


class LoopbackCodec:
    """The line test's codec, both directions: the codes of a frame are the frame."""

    def open(self, slot: Slot) -> None: ...

    def close(self, slot: Slot) -> None: ...

    def run(self, frames: Mapping[Slot, Row]) -> Mapping[Slot, Row]:
        return frames


def silence(stage: Stage) -> Row:
    """Return a frame of digital silence for an encoder, codes 0 for a decoder."""
    return np.zeros(CODEBOOKS, np.int32) if stage is Stage.DECODE else np.zeros(FRAME_SAMPLES, np.float32)


def silence_codes(encoder: Codec, slot: Slot, frames: int) -> Row:
    """Return the codes of digital silence at the beginning of a call, shape (frames, 8); `slot` must be free."""
    encoder.open(slot)
    codes = np.array([encoder.run({slot: silence(Stage.ENCODE)})[slot] for _ in range(frames)])
    encoder.close(slot)
    return codes


def codes_error(codes: CodeArray, codebooks: int = CODEBOOKS) -> str:
    """Return why these are not the codes of a frame, "" when they are."""
    if codes.shape != (codebooks,) or codes.dtype.kind not in "iu":
        return f"a frame is {codebooks} integers, not {codes.dtype} of shape {codes.shape}"
    if codes.min() < 0 or codes.max() >= CODES:
        return f"a code is 0..{CODES - 1}, not {codes.tolist()}"
    return ""


def frame_error(stage: Stage, frame: Row) -> str:
    """Return why an encoder or a decoder cannot take this frame, "" when it can."""
    if stage is Stage.DECODE:
        return codes_error(frame)
    if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
        return f"a frame is {FRAME_SAMPLES} float32, not {frame.dtype} of shape {frame.shape}"
    return "" if np.isfinite(frame).all() else "a sample is not a finite number"
