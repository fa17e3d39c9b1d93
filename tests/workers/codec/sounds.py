"""What callers send: frames (frames, 1920) of speech, noise, silence and a line that is far too loud."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.phrases import phrases
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CodeArray

Frames = NDArray[np.float32]
KINDS = ("speech", "random", "silent", "clipped")


def sound(kind: str, frames: int, seed: int = 0) -> Frames:
    """Return `frames` frames of one kind of sound; a call with another seed sounds different."""
    samples, random = frames * FRAME_SAMPLES, np.random.default_rng(seed)
    pcm = np.zeros(samples, np.float32)
    match kind:
        case "speech":
            pcm += _speech(samples + seed * 7_919)[-samples:]
        case "clipped":
            pcm += np.clip(_speech(samples + seed * 7_919)[-samples:] * 20, -1, 1)
        case "random":
            pcm += random.standard_normal(samples, np.float32) * np.float32(0.3)
    return pcm.reshape(frames, FRAME_SAMPLES)


def codes(frames: int, seed: int = 0) -> CodeArray:
    """Return codes (frames, 8) such as no codec would send: each is as likely as the other."""
    return np.random.default_rng(seed).integers(0, 2_048, (frames, CODEBOOKS), dtype=np.int32)


def snr_db(wanted: Frames, got: Frames) -> float:
    """Return how far the difference is below what was wanted."""
    difference = wanted.astype(np.float64) - got
    return float(10 * np.log10((wanted.astype(np.float64) ** 2).sum() / max((difference**2).sum(), 1e-30)))


@cache
def _recorded() -> Frames:
    return np.concatenate([phrase.pcm for phrase in phrases()])


def _speech(samples: int) -> Frames:
    recorded = _recorded()
    return np.tile(recorded, -(-samples // len(recorded)))[:samples]
