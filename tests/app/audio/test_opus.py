"""Our codec against sphn's own streams, as Kyutai's clients send them."""

import numpy as np
import pytest
import sphn

from app.audio.ogg import PacketReader, packet_s, page
from app.audio.opus import OpusCodec, PcmCodec
from workers.messages import Pcm

PAGE = 960


def tone(seconds: float) -> Pcm:
    return (0.5 * np.sin(np.arange(round(seconds * 24_000)) * 2 * np.pi * 500 / 24_000)).astype(np.float32)


def pages(seconds: float = 2.0) -> list[bytes]:
    """One page each, the headers before the first."""
    writer, pcm = sphn.OpusStreamWriter(24_000), tone(seconds)
    return [writer.append_pcm(pcm[at : at + PAGE]) for at in range(0, len(pcm), PAGE)]


def decoded(codec: OpusCodec, messages: list[bytes]) -> Pcm:
    return np.concatenate([codec.decode(message) for message in messages])


def assert_tone(pcm: Pcm) -> None:
    """The last second, which is decoded after everything that went before."""
    last = pcm[-24_000:]
    spectrum = np.abs(np.fft.rfft(last))
    assert len(last) == 24_000
    assert int(np.argmax(spectrum)) == 500
    assert np.sqrt(np.mean(last**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_a_stream_of_sphn_is_decoded_and_ours_is_read_by_sphn() -> None:
    assert_tone(decoded(OpusCodec(), pages()))
    codec, reader, pcm = OpusCodec(), sphn.OpusStreamReader(24_000), tone(2.0)
    assert_tone(np.concatenate([reader.append_bytes(codec.encode(page)) for page in pcm.reshape(-1, PAGE)]))


@pytest.mark.parametrize("lost", [1, 7])
def test_headers_may_be_missing(lost: int) -> None:
    assert_tone(decoded(OpusCodec(), pages()[lost:]))


def test_it_goes_on_after_garbage_holes_and_with_a_new_stream() -> None:
    codec = OpusCodec()
    broken = [page(np.random.default_rng(seed).bytes(50 + seed), 0) for seed in range(200)]
    decoded(codec, [pages()[0][30:], b"OggS", bytes(500), *broken, *pages()[3:9]])
    assert_tone(decoded(codec, pages()))


def test_packets_of_every_length_are_decoded() -> None:
    codec = OpusCodec()
    packets = [bytes([config << 3]) for config in (*range(4), *range(28, 32))] + [bytes([1 << 3 | 3, 6])]
    for packet in packets:
        assert len(codec.decode(page(packet, 0))) == round(packet_s(packet) * 24_000)
    joined = [packet for packet in PacketReader().push(b"".join(pages())) if packet_s(packet)]
    assert {packet_s(packet) for packet in joined} == {0.04}, "what sphn makes"


def test_of_a_long_message_the_newest_part_is_decoded() -> None:
    assert len(OpusCodec(0.5).decode(b"".join(pages(20.0)))) <= 0.5 * 24_000
    assert len(OpusCodec().decode(b"".join(pages(20.0)))) > 19 * 24_000
    tiny = page(b"", 0)[:26] + bytes([255]) + bytes([1]) * 255 + bytes([3 << 3]) * 255
    assert len(OpusCodec(0.5).decode(tiny * 100)) <= 0.5 * 24_000, "a minute of silence in each half kilobyte"


def test_pcm_is_int16_both_ways() -> None:
    codec = PcmCodec()
    assert codec.decode(codec.encode(tone(0.04))) == pytest.approx(tone(0.04), abs=1e-4)
    assert np.frombuffer(codec.encode(np.array([2.0, -2.0], np.float32)), "<i2").tolist() == [32_767, -32_768]
    assert len(codec.decode(b"\0\0\0")) == 1
