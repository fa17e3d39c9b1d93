"""Time stretch: makes a stretch of speech shorter or longer without changing its pitch.

A quiet packet is dropped or repeated. In speech the cut is made where the sound after it goes on most like the sound
before it, and the two are cross-faded (overlap-add, as in WSOLA: Verhelst and Roelands, 1993).
"""

import numpy as np
from numpy.typing import NDArray

from app.audio.mulaw import PACKET_SAMPLES

FADE_SAMPLES = 40
"""5 ms, over which the two sides of a cut are cross-faded."""
QUIET_RMS = 180.0
"""-45 dBFS."""
SEARCH_STEP = 8

Samples = NDArray[np.int16]
_FADE = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)


def drop_silence(samples: Samples, packets: int) -> Samples:
    """Return `samples`, (n * 160,), without up to `packets` of its quiet packets."""
    rows = samples.reshape(-1, PACKET_SAMPLES)
    return np.delete(rows, _quiet(rows)[:packets], axis=0).reshape(-1)


def repeat_silence(samples: Samples) -> Samples:
    """Return `samples`, (n * 160,), with their first quiet packet twice; unchanged if none is quiet."""
    rows = samples.reshape(-1, PACKET_SAMPLES)
    quiet = _quiet(rows)
    return np.insert(rows, quiet[0], rows[quiet[0]], axis=0).reshape(-1) if len(quiet) else samples


def shorten_speech(samples: Samples) -> Samples:
    """Return `samples`, at least 200 of them, shorter by one packet, cut where it is heard least."""
    signal = samples.astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, FADE_SAMPLES)
    before, after = windows[:-PACKET_SAMPLES:SEARCH_STEP], windows[PACKET_SAMPLES::SEARCH_STEP]
    start = SEARCH_STEP * int(np.argmin(((before - after) ** 2).sum(axis=1)))
    resumed = start + PACKET_SAMPLES
    crossed = signal[start : start + FADE_SAMPLES] * (1 - _FADE) + signal[resumed : resumed + FADE_SAMPLES] * _FADE
    joined: NDArray[np.float32] = np.rint(np.concatenate([signal[:start], crossed, signal[resumed + FADE_SAMPLES :]]))
    return joined.astype(np.int16)


def fade_in(samples: Samples) -> Samples:
    """Return `samples` starting softly: what follows a gap must not click."""
    softened = samples.astype(np.float32)
    softened[:FADE_SAMPLES] *= _FADE
    return softened.astype(np.int16)


def _quiet(rows: NDArray[np.int16]) -> NDArray[np.intp]:
    power = np.mean(rows.astype(np.float64) ** 2, axis=1)
    return np.flatnonzero(power < QUIET_RMS**2)
