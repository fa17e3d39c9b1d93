import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.ogg import MAX_PACKET_S, PacketReader, packet_s, page

PACKETS = [bytes([number]) * (40 + number) for number in range(1, 9)]


def stream(packets: list[bytes]) -> bytes:
    return b"".join(page(packet, number) for number, packet in enumerate(packets))


@given(st.integers(1, 500))
def test_the_packets_come_out_however_the_stream_is_cut(size: int) -> None:
    reader, data = PacketReader(), stream(PACKETS)
    found = [packet for at in range(0, len(data), size) for packet in reader.push(data[at : at + size])]
    assert found == PACKETS


@pytest.mark.parametrize("length", [1, 254, 255, 256, 510, 20_000])
def test_a_packet_may_have_any_length(length: int) -> None:
    packet = bytes(index % 251 for index in range(length))
    assert PacketReader().push(page(packet, 0)) == [packet]


def test_a_packet_goes_on_in_the_next_page_unless_that_is_lost() -> None:
    begin, rest = b"b" * 255, b"r" * 10
    first = page(begin, 0)[:26] + b"\x01\xff" + begin
    assert PacketReader().push(first + page(rest, 1, flags=1)) == [begin + rest]
    assert PacketReader().push(first + stream(PACKETS)) == PACKETS
    assert PacketReader().push(page(rest, 1, flags=1) + stream(PACKETS)) == PACKETS


def test_after_a_start_in_mid_page_a_hole_or_garbage_the_next_page_is_found() -> None:
    data = stream(PACKETS)
    length = len(page(PACKETS[0], 0))
    assert PacketReader().push(data[10:]) == PACKETS[1:]
    assert PacketReader().push(data[: length - 5] + data[length:]) == PACKETS[1:]
    assert PacketReader().push(b"OggS" + bytes(100) + b"Ogg" + data) == PACKETS
    assert PacketReader().push(b"OggS\0\0" + b"\xff" * 300 + data) == PACKETS


@given(st.lists(st.one_of(st.binary(max_size=300), st.just(b"OggS"), st.just(page(b"xy", 3))), max_size=30))
def test_nothing_is_raised_and_little_kept_whatever_comes(pieces: list[bytes]) -> None:
    reader = PacketReader()
    for piece in pieces:
        for packet in reader.push(piece):
            assert 0.0 <= packet_s(packet) <= MAX_PACKET_S
    assert reader.push(b"." * 70_000 + page(b"last", 0))[-1] == b"last"


def test_the_first_bytes_tell_how_long_a_packet_lasts() -> None:
    celt, silk = np.array([2.5, 5, 10, 20]) / 1000, np.array([10, 20, 40, 60]) / 1000
    assert [packet_s(bytes([config << 3])) for config in range(28, 32)] == pytest.approx(celt)
    assert [packet_s(bytes([config << 3])) for config in range(4)] == pytest.approx(silk)
    assert packet_s(bytes([1 << 3 | 1])) == pytest.approx(0.04)
    assert packet_s(bytes([1 << 3 | 3, 6])) == pytest.approx(0.12)
    for none in (b"", bytes([1 << 3 | 3]), bytes([3 << 3 | 3, 3]), b"OpusHead....", b"OpusTags...."):
        assert packet_s(none) == 0.0
