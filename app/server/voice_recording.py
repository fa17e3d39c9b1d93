"""A recording of a voice becomes what Mimi encodes for a prompt: 24 kHz mono at a fixed loudness, in whole frames."""

import math
from pathlib import Path

import numpy as np
import soundfile
import soxr

from workers.messages import FRAME_SAMPLES, SAMPLE_RATE_HZ, Pcm

LOUDNESS_LUFS = -24.0
"""Of the recordings that NVIDIA's voices were made from, by ITU-R BS.1770."""
SHORTEST_S, LONGEST_S = 0.4, 30.0
"""BS.1770 measures blocks of 0.4 s; a voice of 30 s takes an eighth of what the model remembers."""

MOST_SAMPLES = 25_000_000
"""In all channels; 30 s of stereo at 192 kHz have 12 million. A small FLAC can hold any number."""
LOUDEST = 1e6
"""Of floating-point samples; full scale is 1."""


class RecordingError(ValueError):
    """The recording cannot be a voice; the message is one line without the file's name."""


def read_recording(path: Path) -> Pcm:
    """Return a recording as float32, shape (frames, 1920). Raises OSError and RecordingError."""
    path.stat()
    try:
        with soundfile.SoundFile(path) as file:
            seconds = file.frames / file.samplerate
            if not SHORTEST_S <= seconds <= LONGEST_S:
                raise RecordingError(f"lasts {seconds:.1f} s; a voice takes {SHORTEST_S} to {LONGEST_S:.0f} s")
            if file.frames * file.channels > MOST_SAMPLES:
                raise RecordingError(f"has more than {MOST_SAMPLES:,} samples")
            samples, rate_hz = file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.SoundFileError as error:
        raise RecordingError(f"is no recording ({error})") from error
    if not np.isfinite(samples).all():
        raise RecordingError("holds samples that are no numbers")
    mono = samples.clip(-LOUDEST, LOUDEST).mean(axis=1)
    pcm = at_loudness(soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, "VHQ"))
    return np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)


def at_loudness(pcm: Pcm) -> Pcm:
    """Return 24 kHz mono at `LOUDNESS_LUFS`, peaks limited to full scale. Raises RecordingError when it is silent."""
    import pyloudnorm  # takes a second, and few services have such a voice

    loudness = pyloudnorm.Meter(SAMPLE_RATE_HZ).integrated_loudness(pcm.astype(np.float64))
    if not math.isfinite(loudness):
        raise RecordingError("is silent")
    louder: Pcm = (pcm * 10 ** ((LOUDNESS_LUFS - loudness) / 20)).astype(np.float32)
    return louder.clip(-1, 1)
