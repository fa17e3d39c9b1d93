"""Tones to send, and a check that they have arrived."""

import numpy as np

from app.audio.opus import PACKET_SAMPLES, OpusCodec
from workers.messages import SAMPLE_RATE_HZ, Pcm

TONE_HZ = 440


def tone(length_s: float) -> Pcm:
    at = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * TONE_HZ * at)).astype(np.float32)


def pages(length_s: float) -> list[bytes]:
    """Return what an encoder makes of a tone: the headers and one page, then a page for every 40 ms."""
    encoder, samples = OpusCodec(), tone(length_s)
    return [encoder.encode(packet) for packet in samples.reshape(-1, PACKET_SAMPLES)]


def tone_s(samples: Pcm) -> float:
    """Return for how long there is a tone, in seconds: blocks of 10 ms whose energy is near 440 Hz."""
    blocks = samples[: len(samples) // 240 * 240].reshape(-1, 240)
    wave = np.exp(-2j * np.pi * TONE_HZ * np.arange(240) / SAMPLE_RATE_HZ)
    near = np.abs(blocks @ wave) / 120
    return float(np.count_nonzero(near > 0.15)) * 0.01
