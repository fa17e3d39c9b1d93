"""Measures a call by what was said and what was heard, int16 at 8 kHz: latency, signal-to-noise ratio, level.

Latency is found by cross-correlation. For the signal-to-noise ratio, what was said is moved onto what was heard (to a
thousandth of a sample, since resampling delays by no whole number of samples) and scaled to fit; the rest is noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ

Signal = NDArray[np.float64]
FULL_SCALE = 32_768.0
FLOOR_DBFS = -120.0
QUIET_DBFS = -45.0
TELEPHONE_BAND_HZ = (200.0, 3_300.0)
EDGE_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class LatencyWindow:
    """The latency found in one window; `match` is the correlation there, 1 for a perfect copy."""

    at_s: float
    latency_ms: float
    match: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Mouth-to-ear latency over a call; the percentiles are None when no window could be matched."""

    windows: tuple[LatencyWindow, ...]

    @property
    def p50_ms(self) -> float | None:
        return self._percentile_ms(50)

    @property
    def p99_ms(self) -> float | None:
        return self._percentile_ms(99)

    def _percentile_ms(self, percent: float) -> float | None:
        return float(np.percentile([w.latency_ms for w in self.windows], percent)) if self.windows else None


def mouth_to_ear_ms(
    said: Samples, heard: Samples, window_s: float = 1.0, max_latency_s: float = 1.0, min_match: float = 0.5
) -> Latency:
    """Find when what was said was heard, window by window, to a whole sample (0.125 ms).

    Windows quieter than -45 dB, or without a match of at least `min_match`, say nothing and are left out.
    """
    length, max_delay = round(window_s * RATE_HZ), round(max_latency_s * RATE_HZ)
    starts = range(0, len(said) - length + 1, length)
    windows = (_latency_window(said, heard, start, length, max_delay) for start in starts)
    return Latency(tuple(window for window in windows if window is not None and window.match >= min_match))


def snr_db(said: Samples, heard: Samples, max_latency_s: float = 1.0) -> float:
    """Return how far the noise lies below the signal in what was heard, in the telephone band.

    What was said is moved by its (fractional) delay and scaled to fit; what is left over is noise. The two must be
    one undisturbed stretch: an underrun or a jump in between counts as noise.
    """
    sent, received = _aligned(_signal(said), _signal(heard), max_latency_s)
    gain = np.dot(sent, received) / max(np.dot(sent, sent), 1e-12)
    noise = received - gain * sent
    return float(10 * np.log10(max(gain**2 * np.dot(sent, sent), 1e-30) / max(np.dot(noise, noise), 1e-30)))


def window_snr_db(said: Samples, heard: Samples, latency: Latency, window_s: float = 1.0) -> tuple[float, ...]:
    """Return `snr_db` for each window of `latency`: what a call is like whose play-out moved in between."""
    length = round(window_s * RATE_HZ)
    pairs = ((round(w.at_s * RATE_HZ), round((w.at_s + w.latency_ms / 1000) * RATE_HZ)) for w in latency.windows)
    return tuple(
        snr_db(said[start : start + length], heard[begins : begins + length], max_latency_s=0.0)
        for start, begins in pairs
    )


def level_dbfs(samples: Samples) -> float:
    """Return the level of all samples together, in dB below full scale, at least -120."""
    power = np.mean(_signal(samples) ** 2) if len(samples) else 0.0
    return float(10 * np.log10(max(power, 10 ** (FLOOR_DBFS / 10))))


def _signal(samples: Samples) -> Signal:
    return samples.astype(np.float64) / FULL_SCALE


def _latency_window(said: Samples, heard: Samples, start: int, length: int, max_delay: int) -> LatencyWindow | None:
    window = said[start : start + length]
    if level_dbfs(window) < QUIET_DBFS:
        return None
    matches = _matches(_signal(window), _signal(heard[start : start + length + max_delay]))
    if not len(matches):
        return None
    delay = int(np.argmax(matches))
    return LatencyWindow(start / RATE_HZ, delay * 1000 / RATE_HZ, float(matches[delay]))


def _matches(window: Signal, heard: Signal) -> Signal:
    """Return the normalised correlation of the window with `heard` from each of its samples on."""
    places = len(heard) - len(window) + 1
    if places < 1:
        return np.zeros(0)
    products = _correlate(window, heard)[:places]
    sums = np.concatenate([[0.0], np.cumsum(heard**2)])
    energy = np.dot(window, window) * (sums[len(window) :] - sums[:places])
    matches: Signal = products / np.sqrt(np.maximum(energy, 1e-12))
    return matches


def _correlate(sent: Signal, received: Signal) -> Signal:
    """Return sum(sent[i] * received[i + delay]) for every delay from 0 on."""
    size = 1 << (len(sent) + len(received) - 1).bit_length()
    spectrum = np.conj(np.fft.rfft(sent, size)) * np.fft.rfft(received, size)
    return np.fft.irfft(spectrum, size)


def _aligned(sent: Signal, received: Signal, max_latency_s: float) -> tuple[Signal, Signal]:
    """Move `sent` onto `received`, both in the telephone band; the edges, which the moving blurs, are cut off."""
    delay = int(np.argmax(_correlate(sent, received)[: round(max_latency_s * RATE_HZ) + 1]))
    length = min(len(sent), len(received) - delay)
    sent, received = sent[:length], received[delay : delay + length]
    inner = slice(EDGE_SAMPLES, length - EDGE_SAMPLES)
    return _moved(sent, _fraction(sent, received))[inner], _moved(received, 0.0)[inner]


def _fraction(sent: Signal, received: Signal) -> float:
    """Return the rest of the delay, in samples: where the correlation, read between the samples, is highest."""
    cross = np.conj(np.fft.rfft(sent)) * np.fft.rfft(received)
    angles = 2 * np.pi * np.fft.rfftfreq(len(sent))
    best = 0.0
    for step in (0.1, 0.01, 0.001):
        tries = best + step * np.arange(-10, 11)
        best = float(tries[np.argmax([np.sum((cross * np.exp(1j * angles * delay)).real) for delay in tries])])
    return best


def _moved(samples: Signal, delay: float) -> Signal:
    """Shift by any number of samples, and keep the telephone band alone."""
    spectrum = np.fft.rfft(samples)
    turns = np.fft.rfftfreq(len(samples))
    low, high = TELEPHONE_BAND_HZ
    spectrum[(turns * RATE_HZ < low) | (turns * RATE_HZ > high)] = 0
    return np.fft.irfft(spectrum * np.exp(-2j * np.pi * turns * delay), len(samples))
