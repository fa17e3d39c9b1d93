"""The line test's codec: the codes of a frame are the frame."""

from collections.abc import Mapping

import numpy as np

from workers.messages import CodeArray, Payload, Pcm, Slot


class LoopbackCodec:
    """Both directions at once; keeps nothing from frame to frame."""

    def open(self, slot: Slot) -> None:
        """Nothing to forget."""

    def close(self, slot: Slot) -> None:
        """Nothing to forget."""

    def encode(self, frames: Mapping[Slot, Pcm]) -> Mapping[Slot, Payload]:
        return frames

    def decode(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Pcm]:
        return {slot: frame.astype(np.float32, copy=False) for slot, frame in codes.items()}
