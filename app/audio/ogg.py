"""Ogg pages (RFC 3533) of one Opus stream (RFC 7845), read whatever comes and written without a library.

The reader needs no headers, ignores checksums, serial and page numbers, and finds the next page after garbage, a hole
or a start in mid-page. A page in whose body another one begins has lost its end.
"""

import struct

MAGIC = b"OggS"
HEAD_BYTES = 27
FIRST_PAGE, CONTINUED = 2, 1
"""Flags of a page."""
MAX_PACKET_BYTES = 61_440
"""48 frames of 1,275 bytes, and what precedes them (RFC 6716, 3.4)."""
MAX_PACKET_S = 0.12
_SILK_MS, _HYBRID_MS, _CELT_MS = (10.0, 20.0, 40.0, 60.0), (10.0, 20.0), (2.5, 5.0, 10.0, 20.0)
_FRAME_MS = _SILK_MS * 3 + _HYBRID_MS * 2 + _CELT_MS * 4
"""Of each configuration in a packet's first byte (RFC 6716, 3.1)."""


class PacketReader:
    """Returns the packets in the bytes of a stream."""

    def __init__(self) -> None:
        self._data = b""
        self._part: bytes | None = None
        """The begin of a packet that goes on in the next page."""

    def push(self, data: bytes) -> list[bytes]:
        """Return the packets that are whole now, headers included."""
        data, packets, at = self._data + data, list[bytes](), 0
        while (at := data.find(MAGIC, at)) >= 0:
            end, following = _page_end(data, at), data.find(MAGIC, at + len(MAGIC))
            if 0 <= following < (end or len(data)):
                at = following
            elif end is None:
                break
            else:
                packets += self._split(data[at:end])
                at = end
        self._data = data[at:] if at >= 0 else data[-len(MAGIC) + 1 :]
        return packets

    def _split(self, page: bytes) -> list[bytes]:
        """Return the packets that end in a page."""
        lengths, at = page[HEAD_BYTES : HEAD_BYTES + page[26]], HEAD_BYTES + page[26]
        part, self._part = (self._part if page[5] & CONTINUED else b""), None
        packets: list[bytes] = []
        for length in lengths:
            part = None if part is None or len(part) > MAX_PACKET_BYTES else part + page[at : at + length]
            at += length
            if length < 255:
                packets += [part] if part else []
                part = b""
        if lengths and lengths[-1] == 255:
            self._part = part
        return packets


def _page_end(data: bytes, at: int) -> int | None:
    """Return where the page ends that begins there, None if that has not come yet."""
    lengths = data[at + HEAD_BYTES : at + HEAD_BYTES + data[at + 26]] if len(data) >= at + HEAD_BYTES else b""
    if len(data) < at + HEAD_BYTES or len(lengths) < data[at + 26]:
        return None
    end = at + HEAD_BYTES + len(lengths) + sum(lengths)
    return end if end <= len(data) else None


def packet_s(packet: bytes) -> float:
    """Return how long an Opus packet lasts in seconds; 0.0 if it is none, or a header of the stream."""
    if not packet or packet.startswith((b"OpusHead", b"OpusTags")):
        return 0.0
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[packet[0] & 3]
    length_s = frames * _FRAME_MS[packet[0] >> 3] / 1000
    return length_s if length_s <= MAX_PACKET_S else 0.0


def page(packet: bytes, number: int, flags: int = 0) -> bytes:
    """Return a page with one packet, its checksum 0."""
    lengths = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    return MAGIC + struct.pack("<BBQIIIB", 0, flags, 0, 1, number, 0, len(lengths)) + lengths + packet
