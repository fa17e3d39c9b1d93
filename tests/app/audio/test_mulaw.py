import numpy as np
from hypothesis import given
from hypothesis import strategies as st
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
    assert mulaw.decode(EVERY_BYTE).tolist() == [g191_expand(byte) for byte in EVERY_BYTE]


def test_silence_is_silence_in_both_directions() -> None:
    assert mulaw.encode(np.zeros(3, np.int16)) == bytes([mulaw.SILENCE] * 3)
    assert mulaw.decode(bytes([mulaw.SILENCE, 0x7F])).tolist() == [0, 0]
    assert mulaw.decode(mulaw.encode(np.array([-1, 1], np.int16))).tolist() == [0, 0]


def test_what_was_decoded_is_encoded_back_except_for_the_second_zero() -> None:
    back = mulaw.encode(mulaw.decode(EVERY_BYTE))
    assert [(sent, got) for sent, got in zip(EVERY_BYTE, back, strict=True) if sent != got] == [(0x7F, 0xFF)]


@given(st.binary(max_size=400))
def test_a_packet_of_any_size_keeps_its_length(payload: bytes) -> None:
    samples = mulaw.decode(payload)
    assert samples.dtype == np.int16
    assert len(mulaw.encode(samples)) == len(samples) == len(payload)


def test_samples_need_not_lie_side_by_side() -> None:
    spread: NDArray[np.int16] = EVERY_SAMPLE[::7]
    assert mulaw.encode(spread) == mulaw.encode(spread.copy())
