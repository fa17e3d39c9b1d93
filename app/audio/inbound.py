"""The caller's packets become frames.

`media.timestamp` is the caller's clock: what it jumps over is silence, because some lines send no packets while
nobody speaks, and over TCP nothing else is ever lost.
"""

import numpy as np
from numpy.typing import NDArray

from app.audio import mulaw
from app.audio.resample import Interpolator
from workers.messages import Pcm

FRAME_SAMPLES_8K = 640
MAX_GAP_S = 2.0
"""Silence filled in at one jump of the clock; of a longer jump the rest is skipped."""
_TOLERANCE_SAMPLES = 80
_FULL_SCALE = np.float32(1 / 32768)


class Inbound:
    """Cut one call's packets into frames of 80 ms, beginning `start_s` after the first packet."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._interpolator = Interpolator()
        self._skip = round(start_s * mulaw.SAMPLE_RATE_HZ)
        self._origin_ms: int | None = None
        self._position = 0
        self._waiting = np.zeros(0, np.int16)
        self.gap_s = 0.0
        """Silence filled in so far, in seconds."""

    def push(self, timestamp_ms: int, payload: bytes) -> list[Pcm]:
        """Take one packet, return the frames it completes, each float32 (1920,) at 24 kHz."""
        samples = mulaw.decode(payload)
        gap = self._gap(timestamp_ms)
        if gap:
            samples = np.concatenate([np.zeros(gap, np.int16), samples])
        return self._frames(self._after_start(samples))

    def _gap(self, timestamp_ms: int) -> int:
        if self._origin_ms is None:
            self._origin_ms = timestamp_ms
        due = (timestamp_ms - self._origin_ms) * mulaw.SAMPLE_RATE_HZ // 1000
        missing = due - self._position
        if missing <= _TOLERANCE_SAMPLES:
            return 0
        filled = min(missing, round(MAX_GAP_S * mulaw.SAMPLE_RATE_HZ))
        self._position += missing - filled
        self.gap_s += filled / mulaw.SAMPLE_RATE_HZ
        return filled

    def _after_start(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        self._position += len(samples)
        skipped = min(self._skip, len(samples))
        self._skip -= skipped
        return samples[skipped:]

    def _frames(self, samples: NDArray[np.int16]) -> list[Pcm]:
        line = np.concatenate([self._waiting, samples])
        whole = len(line) // FRAME_SAMPLES_8K * FRAME_SAMPLES_8K
        self._waiting = line[whole:]
        return [self._interpolator.push(block * _FULL_SCALE) for block in line[:whole].reshape(-1, FRAME_SAMPLES_8K)]
