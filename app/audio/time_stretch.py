"""Make a stretch of speech shorter, or longer, without changing its pitch.

A packet that is quiet is simply left out, or played twice. In speech the cut is made where the sound after it goes on
most like the sound before it, and the two are faded into each other (overlap-add, as in WSOLA: Verhelst and Roelands,
1993).
"""

import numpy as np
from numpy.typing import NDArray

PACKET = 160
"""20 ms at 8 kHz: what one cut removes."""
FADE = 40
"""5 ms, over which the two sides of a cut are faded into each other."""
QUIET_RMS = 180.0
"""-45 dB below full scale."""
STEP = 8

Samples = NDArray[np.int16]


def leave_out_quiet(samples: Samples, packets: int) -> Samples:
    """Return `samples`, (n * 160,), without up to `packets` of its quiet packets."""
    rows = samples.reshape(-1, PACKET)
    quiet = np.flatnonzero(_rms(rows) < QUIET_RMS)[:packets]
    return np.delete(rows, quiet, axis=0).reshape(-1)


def repeat_quiet(samples: Samples) -> Samples:
    """Return `samples`, (n * 160,), with their first quiet packet twice; unchanged if none is quiet."""
    rows = samples.reshape(-1, PACKET)
    quiet = np.flatnonzero(_rms(rows) < QUIET_RMS)
    return np.insert(rows, quiet[0], rows[quiet[0]], axis=0).reshape(-1) if len(quiet) else samples


def splice(samples: Samples) -> Samples:
    """Return `samples`, at least 200 of them, shorter by one packet, cut where it shows least."""
    starts = np.arange(0, len(samples) - PACKET - FADE + 1, STEP)
    signal = samples.astype(np.float32)
    before = np.stack([signal[start : start + FADE] for start in starts])
    after = np.stack([signal[start + PACKET : start + PACKET + FADE] for start in starts])
    start = int(starts[np.argmin(((before - after) ** 2).sum(axis=1))])
    return _join(signal, start)


def fade_in(samples: Samples) -> Samples:
    """Return `samples` beginning softly: what follows a gap must not click."""
    softened = samples.astype(np.float32)
    softened[:FADE] *= np.linspace(0, 1, FADE, dtype=np.float32)
    return softened.astype(np.int16)


def _join(signal: NDArray[np.float32], start: int) -> Samples:
    weight = np.linspace(0, 1, FADE, dtype=np.float32)
    resumed = start + PACKET
    faded = signal[start : start + FADE] * (1 - weight) + signal[resumed : resumed + FADE] * weight
    joined: NDArray[np.float32] = np.rint(np.concatenate([signal[:start], faded, signal[resumed + FADE :]]))
    return joined.astype(np.int16)


def _rms(rows: NDArray[np.int16]) -> NDArray[np.float64]:
    level: NDArray[np.float64] = np.sqrt(np.mean(rows.astype(np.float64) ** 2, axis=1))
    return level
