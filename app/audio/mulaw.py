"""Mu-law (ITU-T G.711) as two tables: the audio of a phone line.

A byte holds sign, exponent and mantissa of a magnitude in 14 bits, all bits inverted on the line. Encoding is that of
ITU-T G.191's `ulaw_compress`: negative samples by one's complement, so that −1 is silence as 1 is (the common shift by
two turns −1 into −8, a bias that is heard in quiet passages).
"""

import math

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 8_000
PACKET_SAMPLES = 160
"""20 ms: what Twilio sends in one packet."""
SILENCE = 0xFF
_BIAS = 33
_CLIP = 8_158


def _decode_table() -> NDArray[np.int16]:
    byte = ~np.arange(256) & 0xFF
    exponent, mantissa = (byte >> 4) & 7, byte & 15
    magnitude = (((2 * mantissa + _BIAS) << exponent) - _BIAS) * 4
    return np.where(byte & 0x80, -magnitude, magnitude).astype(np.int16)


def _encode_table() -> NDArray[np.uint8]:
    """Index 0..65535 is the sample's 16 bits read as unsigned."""
    sample = np.arange(65_536).astype(np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum(np.where(sample < 0, ~sample, sample) >> 2, _CLIP) + _BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    mantissa = (magnitude >> (exponent + 1)) & 15
    plain: NDArray[np.int32] = np.where(sample < 0, 0x80, 0) | exponent << 4 | mantissa
    return (~plain & 0xFF).astype(np.uint8)


_DECODE = _decode_table()
_ENCODE = _encode_table()
POWER: NDArray[np.float64] = (_DECODE / 32_768.0) ** 2
"""The power of each byte, full scale 1."""


def silence(samples: int) -> bytes:
    return bytes([SILENCE]) * samples


def power_dbfs(payload: bytes) -> float:
    """Return the level of a packet, not empty; at least -120 dBFS."""
    power = float(np.mean(POWER[np.frombuffer(payload, np.uint8)]))
    return 10 * math.log10(max(power, 1e-12))


def decode(payload: bytes) -> NDArray[np.int16]:
    """Return the samples of a packet, shape (len(payload),), in ±32,124."""
    return _DECODE[np.frombuffer(payload, np.uint8)]


def encode(samples: NDArray[np.int16]) -> bytes:
    """Return one byte a sample; values beyond ±32,124 saturate."""
    return _ENCODE[np.ascontiguousarray(samples).view(np.uint16)].tobytes()
