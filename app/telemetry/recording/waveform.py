"""The waveform of a recording: the lowest and the highest sample of each side in equal parts of time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from app.telemetry.recording.flac import BLOCK, AudioFileError

FULL_SCALE = 1 << 15
DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Waveform:
    """`low` and `high` have the shape (buckets, 2), in [-1, 1], caller and Moshi."""

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
    """Return a file's waveform in so many parts, or in as many as it has samples. Raises AudioFileError."""
    try:
        with soundfile.SoundFile(path) as source:
            return _waveform(source, min(buckets, source.frames))
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{path.name}: {error}") from error


def _waveform(source: soundfile.SoundFile, buckets: int) -> Waveform:
    bounds, length, at = np.iinfo(np.int16), source.frames, 0
    low, high = np.full((buckets, 2), bounds.max, np.int16), np.full((buckets, 2), bounds.min, np.int16)
    for block in source.blocks(BLOCK, dtype="int16", always_2d=True):
        bucket = np.arange(at, at + len(block)) * buckets // length
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        found = bucket[starts]
        low[found] = np.minimum(low[found], np.minimum.reduceat(block, starts))
        high[found] = np.maximum(high[found], np.maximum.reduceat(block, starts))
        at += len(block)
    return Waveform(length / source.samplerate, *(np.round(side / FULL_SCALE, DECIMALS) for side in (low, high)))
