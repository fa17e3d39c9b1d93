"""What the demo's caller says, and when.

The recordings lie beside `synthetic:stt`, which writes down what they say. The times leave room for what
`synthetic:script` says; Moshi needs no times.
"""

from pathlib import Path

import numpy as np

import workers
from app.simulator.wav import Samples, read_audio
from app.twilio.events import RATE_HZ

FOLDER = Path(workers.__file__).parent / "checkpoints" / "synthetic" / "caller"
CONVERSATION = {"question1": 6.8, "question2": 15.6, "interruption": 22.6, "question3": 30.8}
"""When each recording begins, in seconds after the stream's start."""
LENGTH_S = 39.0


def recording(name: str) -> Samples:
    """Return one recording, int16 at 8 kHz."""
    return read_audio(FOLDER / f"{name}.wav")


def conversation() -> Samples:
    """Return all the caller says, int16 at 8 kHz, in its time."""
    said = np.zeros(round(LENGTH_S * RATE_HZ), np.int16)
    for name, start_s in CONVERSATION.items():
        samples, start = recording(name), round(start_s * RATE_HZ)
        said[start : start + len(samples)] = samples
    return said


def talk() -> Samples:
    """Return the recordings one after the other: a caller who never pauses, for the line test."""
    return np.concatenate([recording(name) for name in CONVERSATION])
