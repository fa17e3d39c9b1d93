"""Moshi's frames become packets for the caller."""

import numpy as np

from app.audio import mulaw
from app.audio.resample import Decimator
from workers.messages import Pcm


class Outbound:
    """Turn one call's frames into mu-law."""

    def __init__(self) -> None:
        self._decimator = Decimator()

    def push(self, pcm: Pcm) -> bytes:
        """Take a frame, float32 (1920,) at 24 kHz, return its 640 bytes; what is too loud saturates."""
        samples = np.rint(self._decimator.push(pcm) * np.float32(32768))
        return mulaw.encode(np.clip(samples, -32768, 32767).astype(np.int16))
