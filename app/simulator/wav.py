"""Audio files: the one door to `sphn`, `soxr` and `wave` in the simulator."""

import wave
from pathlib import Path

import numpy as np
import soxr
import sphn  # type: ignore[import-untyped]
from numpy.typing import NDArray

from app.twilio.events import RATE_HZ

Samples = NDArray[np.int16]
"""Mono samples at 8 kHz."""


def read_audio(path: Path) -> Samples:
    """Return an audio file as 8 kHz mono: all channels mixed, any rate, any format that `sphn` reads."""
    channels, rate_hz = sphn.read(str(path))
    mono: NDArray[np.float32] = np.asarray(channels, np.float32).mean(axis=0)
    if rate_hz != RATE_HZ:
        mono = soxr.resample(mono, rate_hz, RATE_HZ, quality="VHQ")
    samples: Samples = np.clip(np.rint(mono * 32_768), -32_768, 32_767).astype(np.int16)
    return samples


def write_stereo(path: Path, left: Samples, right: Samples) -> None:
    """Write two channels at 8 kHz, 16 bits; the shorter one ends in silence."""
    length = max(len(left), len(right))
    frames = np.zeros((length, 2), "<i2")
    frames[: len(left), 0] = left
    frames[: len(right), 1] = right
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(frames.tobytes())
