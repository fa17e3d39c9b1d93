"""What a codec is: one direction, encoder or decoder, for a number of calls; and the line test's."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from workers.messages import FRAME_SAMPLES, CodeArray, Payload, Pcm, Slot


class CodecError(Exception):
    """This call's audio cannot be encoded or decoded any further; other calls are not affected."""


class Codec(Protocol):
    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot; nothing of the last one remains."""

    def close(self, slot: Slot) -> None:
        """End the call in a slot, with the work that `open` should not have to wait for."""


class Encoder(Codec, Protocol):
    """The caller's direction."""

    def encode(self, frames: Mapping[Slot, Pcm]) -> Mapping[Slot, Payload | CodecError]:
        """Return the codes of the next frame of each slot named, or the error with which its call must end."""


class Decoder(Codec, Protocol):
    """Moshi's direction."""

    def decode(self, codes: Mapping[Slot, CodeArray]) -> Mapping[Slot, Pcm | CodecError]:
        """Return the next frame of each slot named, or the error with which its call must end."""


class LoopbackCodec:
    """The line test's codec, both directions: the codes of a frame are the frame."""

    def open(self, slot: Slot) -> None: ...

    def close(self, slot: Slot) -> None: ...

    def encode(self, frames: Mapping[Slot, Pcm]) -> Mapping[Slot, Payload]:
        return frames

    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm]:
        return {slot: frame.astype(np.float32, copy=False) for slot, frame in codes.items()}


def silence_codes(encoder: Encoder, slot: Slot, frames: int) -> Payload:
    """Return the codes of digital silence at the beginning of a call, shape (frames, 8); `slot` must be free."""
    encoder.open(slot)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    codes = np.array([encoder.encode({slot: silence})[slot] for _ in range(frames)])
    encoder.close(slot)
    return codes
