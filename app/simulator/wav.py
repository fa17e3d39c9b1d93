"""Audio files of the simulator and of the client: any rate in, 8 kHz or another one out."""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from app.audio.resample import to_int16
from app.twilio.events import RATE_HZ

Samples = NDArray[np.int16]
"""Mono samples, at 8 kHz unless the rate is given."""


def read_audio(path: Path, to_hz: int = RATE_HZ) -> Samples:
    """Return an audio file as mono at `to_hz`, its channels mixed; any rate and any format of libsndfile.

    Raises OSError, ValueError if it is no audio.
    """
    try:
        with path.open("rb") as file:
            frames, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: {error.error_string}") from error
    mono: NDArray[np.float32] = frames.mean(axis=1)
    if rate_hz != to_hz:
        mono = soxr.resample(mono, rate_hz, to_hz, quality="VHQ")
    return to_int16(mono)


def write_stereo(path: Path, left: Samples, right: Samples, rate_hz: int = RATE_HZ) -> None:
    """Write two channels as WAV, 16 bits; the shorter one ends in silence."""
    length = max(len(left), len(right))
    frames = np.stack([np.pad(channel, (0, length - len(channel))) for channel in (left, right)], axis=1)
    with path.open("wb") as file:
        soundfile.write(file, frames, rate_hz, "PCM_16", format="WAV")
