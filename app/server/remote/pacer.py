"""Sends audio at the pace of speech.

A Moshi server is clocked by the audio that it receives, and drops none: what a client sends too fast, or saves up in a
stall, stays as latency for the whole conversation.
"""

import math
from collections import deque

import numpy as np

from app.audio.opus import PACKET_SAMPLES
from workers.messages import FRAME_S, SAMPLE_RATE_HZ, Pcm

PACKET_S = PACKET_SAMPLES / SAMPLE_RATE_HZ
BURST_S, FILLED_BURST_S = PACKET_S, 3 * PACKET_S
"""By how much packets may make up for earlier lateness: without and with silence in place of what is late."""
LATE_S = 2 * PACKET_S
"""How late audio is when silence takes its place."""
MOST_QUEUED = 3 * PACKET_SAMPLES
"""Live sound beyond this is dropped, the oldest first: 120 ms."""
STANDING_S, STANDING_PUSHES = 0.002, 8
"""What the last packet of each of so many pushes has waited for is dropped, too: silence has been sent instead."""


class Pacer:
    """In any t seconds at most t + 80 ms of audio pass, t + 160 ms if it fills. `now` in seconds, monotonic.

    A pacer that `fills` keeps the server's clock going: where audio is missing it sends silence, so late that audio
    which comes again need not wait behind it.
    """

    def __init__(self, live: bool, fills: bool = False) -> None:
        """A microphone is `live`: what waits too long is dropped. A file is not: it only ends later."""
        self.dropped = 0
        """Samples."""
        self._live, self._fills = live, fills
        self._burst_s = FILLED_BURST_S if fills else BURST_S
        self._is_filling = False
        self._queue = np.zeros(0, np.float32)
        self._next_s = -math.inf
        self._is_new = False
        """Whether there is audio that has not been looked at."""
        self._waits_s: deque[float] = deque(maxlen=STANDING_PUSHES)

    def start(self, now: float) -> None:
        """Start the clock; the first frame may take as long as it lasts."""
        self._next_s = now - self._burst_s + FRAME_S

    def push(self, samples: Pcm) -> None:
        self._queue, self._is_filling, self._is_new = np.concatenate([self._queue, samples]), False, True
        if self._live and len(self._queue) > MOST_QUEUED:
            self._drop(len(self._queue) - PACKET_SAMPLES)

    def pull(self, now: float) -> list[Pcm]:
        """Return the packets, (960,) each, that may be sent now."""
        packets: list[Pcm] = []
        if self._live and self._is_new and not self._is_missing:
            self._drop_standing(now)
        if self._is_missing and now >= self.get_timer():
            self._is_filling = True
            self._queue = np.pad(self._queue, (0, PACKET_SAMPLES - len(self._queue)))
        while not self._is_missing and now >= self._next_s:
            packets.append(self._queue[:PACKET_SAMPLES])
            self._queue = self._queue[PACKET_SAMPLES:]
            self._next_s = max(self._next_s, now - self._burst_s) + PACKET_S
        return packets

    def get_timer(self) -> float:
        """Return when the next packet may be sent; infinity if there is none."""
        if not self._is_missing:
            return self._next_s
        if not self._fills or self._next_s == -math.inf:
            return math.inf
        return self._next_s + self._burst_s + (0.0 if self._is_filling else LATE_S)

    def _drop_standing(self, now: float) -> None:
        self._is_new, ahead = False, len(self._queue) // PACKET_SAMPLES - 1
        self._waits_s.append(max(self._next_s, now - self._burst_s) + ahead * PACKET_S - now)
        if len(self._waits_s) == STANDING_PUSHES and (wait_s := min(self._waits_s)) > STANDING_S:
            self._drop(min(math.ceil(wait_s / PACKET_S) * PACKET_SAMPLES, len(self._queue)))

    def _drop(self, late: int) -> None:
        self._queue = self._queue[late:]
        self.dropped += late
        self._waits_s.clear()

    @property
    def _is_missing(self) -> bool:
        return len(self._queue) < PACKET_SAMPLES
