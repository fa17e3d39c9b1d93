import numpy as np
from numpy.typing import NDArray

from app.audio import mulaw

EVERY_SAMPLE = np.arange(-32_768, 32_768).astype(np.int16)
EVERY_BYTE = bytes(range(256))


def g191_compress(sample: int) -> int:
    """`ulaw_compress` of ITU-T G.191's software tool library, line by line."""
    magnitude = ((~sample) >> 2) + 33 if sample < 0 else (sample >> 2) + 33
    magnitude = min(magnitude, 0x1FFF)
    rest, segment = magnitude >> 6, 1
    while rest:
        segment += 1
        rest >>= 1
    high_nibble = 0x8 - segment
    low_nibble = 0xF - ((magnitude >> segment) & 0xF)
    byte = high_nibble << 4 | low_nibble
    return byte | 0x80 if sample >= 0 else byte


def g191_expand(byte: int) -> int:
    """`ulaw_expand` of the same library."""
    sign = -1 if byte < 0x80 else 1
    mantissa = ~byte & 0xFF
    exponent = (mantissa >> 4) & 0x7
    segment = exponent + 1
    mantissa &= 0xF
    step = 4 << segment
    return sign * ((0x80 << exponent) + step * mantissa + step // 2 - 4 * 33)


def test_every_sample_is_encoded_as_the_itu_does() -> None:
    assert mulaw.encode(EVERY_SAMPLE) == bytes(g191_compress(int(sample)) for sample in EVERY_SAMPLE)


def test_every_byte_is_decoded_as_the_itu_does() -> None:
    samples = mulaw.decode(EVERY_BYTE)
    assert samples.dtype == np.int16
    assert samples.tolist() == [g191_expand(byte) for byte in EVERY_BYTE]


def test_silence_is_what_a_silent_sample_is_encoded_as() -> None:
    assert mulaw.silence(3) == mulaw.encode(np.zeros(3, np.int16)) == bytes([mulaw.SILENCE] * 3)
    assert mulaw.encode(np.array([-1, 1], np.int16)) == bytes([0x7F, mulaw.SILENCE]), "no bias"


def test_samples_need_not_lie_side_by_side() -> None:
    spread: NDArray[np.int16] = EVERY_SAMPLE[::7]
    assert mulaw.encode(spread) == mulaw.encode(spread.copy())
