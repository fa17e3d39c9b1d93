"""How long a caller has been silent: a limit that tells a line with somebody on it from one that was left open.

A packet is quiet when no sample of it is louder than `QUIET`, which is below a voice and above the noise of an idle
line; packets that do not come are quiet too. Moshi hears everything, and nothing else depends on this.
"""

import math

import numpy as np

from app.audio import mulaw

QUIET = 256
"""Of 32,768: 42 dB below full scale."""
_LOUDNESS = np.abs(mulaw.decode(bytes(range(256))).astype(np.int32))
_QUIET_BYTES = bytes(np.flatnonzero(_LOUDNESS <= QUIET).astype(np.uint8))


class IdleLimit:
    """`due_s` is when a caller has been quiet for `limit_s` seconds, infinity if that is 0."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s or math.inf
        self.due_s = now + self._limit_s

    def add(self, payload: bytes, now: float) -> None:
        """Count one packet, mu-law."""
        if self._limit_s < math.inf and payload.translate(None, _QUIET_BYTES):
            self.reset(now)

    def reset(self, now: float) -> None:
        """Count another sign of life, such as a key pressed."""
        self.due_s = now + self._limit_s
