"""The outline of a recording, to be drawn: the lowest and the highest sample of each side in equal parts of time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.telemetry.recording.sound import BLOCK, FULL_SCALE, blocks_of, length_of

DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Waveform:
    """The outline; `low` and `high` have the shape (buckets, 2), in [-1, 1], caller and Moshi."""

    seconds: float
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def as_json(self) -> dict[str, object]:
        """Return it for machines."""
        sides = {
            name: {"min": self.low[:, side].tolist(), "max": self.high[:, side].tolist()}
            for side, name in enumerate(("caller", "moshi"))
        }
        return {"seconds": round(self.seconds, 3), "buckets": len(self.low), **sides}


def read_waveform(path: Path, buckets: int) -> Waveform:
    """Return the outline of a file in so many parts, or in as many as it has samples. Raises SoundError."""
    length, rate_hz = length_of(path)
    buckets = min(buckets, length)
    bounds = np.iinfo(np.int16)
    low, high = np.full((buckets, 2), bounds.max, np.int16), np.full((buckets, 2), bounds.min, np.int16)
    at = 0
    for block in blocks_of(path, BLOCK):
        block = block[: length - at]
        if not len(block):
            break
        bucket = np.arange(at, at + len(block)) * buckets // length
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        seen = bucket[starts]
        low[seen] = np.minimum(low[seen], np.minimum.reduceat(block, starts))
        high[seen] = np.maximum(high[seen], np.maximum.reduceat(block, starts))
        at += len(block)
    return Waveform(length / rate_hz, *(np.round(side / FULL_SCALE, DECIMALS) for side in (low, high)))
