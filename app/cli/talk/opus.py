"""Ogg/Opus at 24 kHz through sphn, Kyutai's library.

sphn's reader raises ValueError at the first byte that is no Ogg page and never recovers: one hole would end the sound
of the whole conversation. So pages are found here, by their capture pattern, and each is given to it alone. It decodes
pages whose headers were never received, and does not look at the CRC.
"""

from collections.abc import Iterator

import numpy as np
import sphn

from app.audio.playback_buffer import RATE_HZ, Samples

PACKET_SAMPLES = 960
"""40 ms: what sphn puts into a packet, and a packet into a page."""
CAPTURE = b"OggS"
HEADER_BYTES = 27
MOST_BYTES = HEADER_BYTES + 255 + 255 * 255
"""The longest page."""


class OggPages:
    """Splits a byte stream into whole pages; skips what is none."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, data: bytes) -> Iterator[bytes]:
        """Yield each page that is complete now."""
        self._bytes += data
        while page := self._next():
            yield page

    def _next(self) -> bytes:
        """Return the first page, b"" while it is incomplete. One with another page's start inside has lost its end."""
        while self._synchronize():
            length = self._page_length()
            inner = self._bytes.find(CAPTURE, len(CAPTURE), length)
            if inner < 0:
                break
            del self._bytes[:inner]
        else:
            return b""
        if len(self._bytes) < length:
            return b""
        page = bytes(self._bytes[:length])
        del self._bytes[:length]
        return page

    def _synchronize(self) -> bool:
        """Drop what is before the first capture pattern; return whether there is one."""
        at = self._bytes.find(CAPTURE)
        del self._bytes[: at if at >= 0 else max(0, len(self._bytes) - len(CAPTURE) + 1)]
        return at >= 0

    def _page_length(self) -> int:
        """Return the first page's length; more than there is while its header is incomplete."""
        if len(self._bytes) < HEADER_BYTES or len(self._bytes) < HEADER_BYTES + self._bytes[26]:
            return MOST_BYTES
        segments = self._bytes[26]
        return HEADER_BYTES + segments + sum(self._bytes[HEADER_BYTES : HEADER_BYTES + segments])


class OpusDecoder:
    """Decodes what a server sends, whatever it sends."""

    def __init__(self) -> None:
        self._pages, self._reader = OggPages(), sphn.OpusStreamReader(RATE_HZ)

    def decode(self, data: bytes) -> Samples:
        """Return the (n,) samples of the pages that are complete; what cannot be decoded is left out."""
        decoded = [self._decode_page(page) for page in self._pages.push(data)]
        return np.concatenate([np.zeros(0, np.float32), *decoded])

    def _decode_page(self, page: bytes) -> Samples:
        try:
            samples: Samples = self._reader.append_bytes(page)
        except ValueError:
            self._reader = sphn.OpusStreamReader(RATE_HZ)
            return np.zeros(0, np.float32)
        return samples


class OpusEncoder:
    """Encodes packets of 40 ms; the first result begins with the stream's two header pages."""

    def __init__(self) -> None:
        self._writer = sphn.OpusStreamWriter(RATE_HZ)

    def encode(self, packet: Samples) -> bytes:
        """Return the pages of a packet, shape (960,)."""
        ogg: bytes = self._writer.append_pcm(packet)
        return ogg
