"""Moshi's frames at the telephone's rate."""

import numpy as np
from numpy.typing import NDArray

from app.audio.resample import Decimator
from workers.messages import Pcm


class Outbound:
    """Bring one call's frames down to 8 kHz."""

    def __init__(self) -> None:
        self._decimator = Decimator()

    def push(self, pcm: Pcm) -> NDArray[np.int16]:
        """Take a frame, float32 (1920,) at 24 kHz, return its 640 samples; what is too loud saturates."""
        samples: NDArray[np.float32] = np.rint(self._decimator.push(pcm) * np.float32(32768))
        return np.clip(samples, -32768, 32767).astype(np.int16)
