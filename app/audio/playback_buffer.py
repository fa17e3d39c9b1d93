"""What a client has received and still has to play at 24 kHz: latency small, gaps rare.

Theory of operation, that of Kyutai's browser client. Playback starts once a frame (80 ms) is there and a margin of
10 ms has passed. More than target (frame + margin) and slack (10 ms) is dropped, the oldest first, down to the target;
then the slack grows by 5 ms, up to 80. On an underrun the sound fades out, the buffer fills again, and the margin grows
by 5 ms, up to 80. So a line with jitter gets a longer buffer, and a stall does not stay as latency.
"""

from collections import deque

import numpy as np

from workers.messages import FRAME_SAMPLES, SAMPLE_RATE_HZ, Pcm

MS = SAMPLE_RATE_HZ // 1_000
FRAME, FIRST_MARGIN, FIRST_SLACK, INCREMENT, MOST = FRAME_SAMPLES, 10 * MS, 10 * MS, 5 * MS, 80 * MS


class PlaybackBuffer:
    """Lengths in samples; `pull` is the clock: it is called for every block that the device plays."""

    def __init__(self) -> None:
        self.buffered = self.underruns = self.dropped = 0
        self._chunks: deque[Pcm] = deque()
        self._margin, self._slack = FIRST_MARGIN, FIRST_SLACK
        self._started = self._fade_in = False
        self._wait = 0

    @property
    def target(self) -> int:
        return FRAME + self._margin

    def push(self, samples: Pcm) -> None:
        self._chunks.append(samples)
        self.buffered += len(samples)
        if not self._started and self.buffered >= FRAME:
            self._started, self._fade_in, self._wait = True, True, self._margin
        if self.buffered > self.target + self._slack:
            self.dropped += len(self._pop(self.buffered - self.target))
            self._slack = min(self._slack + INCREMENT, MOST)

    def pull(self, count: int) -> Pcm:
        """Return the next (count,) samples to play; silence where there are none."""
        played = np.zeros(count, np.float32)
        if not self._started:
            return played
        if self._wait > 0:
            self._wait -= count
            return played
        taken = self._pop(min(count, self.buffered))
        played[: len(taken)] = taken
        self._fade(played[: len(taken)], ends=len(taken) < count)
        return played

    def _fade(self, played: Pcm, ends: bool) -> None:
        if self._fade_in:
            played *= np.linspace(0, 1, len(played), dtype=np.float32)
            self._fade_in = False
        if ends:
            played *= np.linspace(1, 0, len(played), dtype=np.float32)
            self.underruns += 1
            self._started = False
            self._margin = min(self._margin + INCREMENT, MOST)

    def _pop(self, count: int) -> Pcm:
        """Remove and return the oldest (count,) samples."""
        taken: list[Pcm] = []
        self.buffered -= count
        while count > 0:
            chunk = self._chunks.popleft()
            taken.append(chunk[:count])
            if len(chunk) > count:
                self._chunks.appendleft(chunk[count:])
            count -= len(chunk)
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)
