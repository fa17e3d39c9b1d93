"""Sends audio at the pace of speech.

A Moshi server is clocked by the audio that it receives, and drops none: what a client sends too fast, or saves up in a
stall, stays as latency for the whole conversation.
"""

import math

import numpy as np

from app.audio.opus import PACKET_SAMPLES
from app.audio.playback_buffer import RATE_HZ, Samples

PACKET_S = PACKET_SAMPLES / RATE_HZ
BURST_S = PACKET_S
"""By how much a packet may make up for earlier lateness."""
MOST_QUEUED = 3 * PACKET_SAMPLES
"""Live sound beyond this is dropped, the oldest first: 120 ms."""


class Pacer:
    """In any t seconds at most t + 80 ms of audio pass. `now` in seconds, monotonic."""

    def __init__(self, live: bool) -> None:
        """A microphone is `live`: what waits too long is dropped. A file is not: it only ends later."""
        self.dropped = 0
        """Samples."""
        self._live = live
        self._queue = np.zeros(0, np.float32)
        self._next_s = -math.inf

    def push(self, samples: Samples) -> None:
        """Add what was said."""
        self._queue = np.concatenate([self._queue, samples])
        if self._live and len(self._queue) > MOST_QUEUED:
            late = len(self._queue) - PACKET_SAMPLES
            self._queue = self._queue[late:]
            self.dropped += late

    def pull(self, now: float) -> list[Samples]:
        """Return the packets, (960,) each, that may be sent now."""
        packets: list[Samples] = []
        while len(self._queue) >= PACKET_SAMPLES and now >= self._next_s:
            packets.append(self._queue[:PACKET_SAMPLES])
            self._queue = self._queue[PACKET_SAMPLES:]
            self._next_s = max(self._next_s, now - BURST_S) + PACKET_S
        return packets
