"""The caller's packets become frames, one every 80 ms whatever the line does.

Theory of operation. `media.timestamp` is the caller's clock; how much later than that a packet arrives is its lateness.
The least lateness seen is the line's own; it may rise slowly, so that a caller's clock that is slow is followed.

A frame is complete when its last sample has arrived. If that takes `wait_s` longer than it should, what is missing is
filled with silence: the caller may be silent (some lines send nothing then) or the line stalls, and Moshi must go on in
both cases. Audio for a time that has been filled is late and dropped, so that a stall never becomes a backlog. `wait_s`
follows the jitter of the line. Where the clock jumps by more than a line can explain, or stays behind for seconds, it
is taken to have been set anew.
"""

import math
from collections import Counter

import numpy as np

from app.audio import mulaw
from app.audio.resample import Interpolator
from workers.messages import FRAME_S, Pcm

RATE_HZ = mulaw.SAMPLE_RATE_HZ
FRAME_SAMPLES_8K = round(FRAME_S * RATE_HZ)
TOLERANCE_SAMPLES = 80
"""A jump of the clock by less than this is taken for a rounded timestamp."""
WAIT_S = (0.04, 0.1)
"""The least and the most that a frame is waited for."""
LATE_DECAY = 0.9998
"""How fast the memory of a late packet fades with each later one: by half in a minute."""
DRIFT = 0.001
"""How fast, in seconds a second, the least lateness may rise."""
MAX_JUMP_SAMPLES = 2 * RATE_HZ
ALL_LATE_S = 3.0
"""After so long in which all packets were late and none completed a frame, the clock has been set anew."""
_ROUNDING = 1e-3
"""Of a packet, 20 µs: what is in phase already stays so."""
_FULL_SCALE = np.float32(1 / 32768)


class JitterBuffer:
    """Cuts one call's packets into frames, beginning `start_s` after the first packet; `now` in seconds, monotonic."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.counts: Counter[str] = Counter()
        """`ms_filled`: silence put in; `ms_late`: audio dropped because its time had been filled; `clock_resets`."""
        self.wait_s = WAIT_S[0]
        """How long after its time a frame may still become complete."""
        self._interpolator = Interpolator()
        self._start = self._position = round(start_s * RATE_HZ)
        """The next sample of the caller's clock that a frame needs."""
        self._waiting = b""
        self._origin = 0
        self._lateness_s, self._seen_s = math.inf, 0.0
        self._late_s = 0.0
        self._late_since_s: float | None = None
        """Since when packets are late and no frame has become complete by itself."""
        self._phase_s: float | None = None

    def start(self, now: float, phase_s: float | None = None) -> None:
        """Start the caller's clock at 0 now.

        With `phase_s` the first frame begins up to 80 ms earlier, so that frames become complete at that moment of our
        clock, give or take whole frames, as those of other calls do; or less than a packet before it, since a frame
        that ended within a packet would only wait for the rest of it.
        """
        self._lateness_s = self._seen_s = now
        self._phase_s = phase_s

    @property
    def start_s(self) -> float:
        """When on the caller's clock the first frame begins."""
        return self._start / RATE_HZ

    def complete_s(self, now: float) -> float:
        """Return when on our clock the frame that is being filled becomes complete if nothing is late."""
        end = self._position - len(self._waiting) + FRAME_SAMPLES_8K
        return end / RATE_HZ + (self._lateness_s if self._lateness_s < math.inf else now)

    def spoken_s(self, number: float) -> float | None:
        """Return when on our clock the first sample of frame `number` arrived; if it was late, when it should have."""
        return self.start_s + number * FRAME_S + self._lateness_s if self._lateness_s < math.inf else None

    def position(self, timestamp_ms: int) -> int:
        """Return where on the caller's clock a packet begins, in samples."""
        return timestamp_ms * RATE_HZ // 1000 - self._origin

    def push(self, timestamp_ms: int, payload: bytes, now: float) -> list[Pcm]:
        """Add one packet; return the frames it completes, each float32 (1920,) at 24 kHz."""
        self._check_clock(timestamp_ms * RATE_HZ // 1000, now)
        begin = self.position(timestamp_ms)
        self._add_lateness(now - (begin + len(payload)) / RATE_HZ, len(payload) / RATE_HZ, now)
        if self._phase_s is not None:  # not before a packet has shown how late the line is
            self._align(self._phase_s)
            self._phase_s = None
        frames = self._frames(self._on_time(begin, payload))
        if frames:
            self._late_since_s = None
        return frames

    def get_timer(self) -> float:
        """Return when the next frame must be filled; infinity before the start."""
        end = self._position - len(self._waiting) + FRAME_SAMPLES_8K
        return end / RATE_HZ + self._lateness_s + self.wait_s

    def handle_timer(self, now: float) -> list[Pcm]:
        """Return the frames that have waited long enough, filled with silence."""
        frames: list[Pcm] = []
        while now >= self.get_timer():
            missing = FRAME_SAMPLES_8K - len(self._waiting)
            self.counts["ms_filled"] += missing * 1000 // RATE_HZ
            frames += self._frames(mulaw.silence(missing))
        return frames

    def _check_clock(self, stamp: int, now: float) -> None:
        """Set the origin anew if a packet's own time, `stamp` in samples, shows that the caller's clock was."""
        has_begun, position = self._position > self._start, self._position
        if not has_begun:
            position = min(position, round((now - self._lateness_s) * RATE_HZ))
        ahead = stamp - self._origin - position
        late = ahead < -TOLERANCE_SAMPLES and has_begun
        if late and self._late_since_s is None:
            self._late_since_s = now
        all_late = late and self._late_since_s is not None and now - self._late_since_s > ALL_LATE_S
        if ahead > MAX_JUMP_SAMPLES or all_late:
            self._origin, self._late_since_s, self._lateness_s = stamp - position, None, math.inf
            self.counts["clock_resets"] += 1

    def _align(self, phase_s: float) -> None:
        """Begin earlier by whole packets, so that frames become complete in phase with those of other calls."""
        early_s = (self.complete_s(0.0) - phase_s) % FRAME_S
        samples = mulaw.PACKET_SAMPLES * math.ceil(early_s * RATE_HZ / mulaw.PACKET_SAMPLES - _ROUNDING)
        self._start -= samples
        self._position -= samples

    def _add_lateness(self, lateness_s: float, length_s: float, now: float) -> None:
        """Count how late the last sample of a packet arrived; the first one was later by the length of the packet."""
        self._lateness_s = min(lateness_s, self._lateness_s + DRIFT * (now - self._seen_s))
        self._seen_s = now
        late_s = lateness_s + length_s - self._lateness_s
        self._late_s = max(self._late_s * LATE_DECAY, min(late_s, WAIT_S[1]))
        self.wait_s = min(max(WAIT_S[0], 1.5 * self._late_s), WAIT_S[1])

    def _on_time(self, begin: int, payload: bytes) -> bytes:
        """Return what of a packet is not too late, with silence before it where the caller's clock jumped."""
        ahead = begin - self._position
        if ahead > TOLERANCE_SAMPLES:
            self.counts["ms_filled"] += ahead * 1000 // RATE_HZ
            return mulaw.silence(ahead) + payload
        if ahead < -TOLERANCE_SAMPLES:
            if begin >= self._start:
                self.counts["ms_late"] += min(-ahead, len(payload)) * 1000 // RATE_HZ
            return payload[-ahead:]
        return payload

    def _frames(self, payload: bytes) -> list[Pcm]:
        self._position += len(payload)
        self._waiting += payload
        frames: list[Pcm] = []
        while len(self._waiting) >= FRAME_SAMPLES_8K:
            samples = mulaw.decode(self._waiting[:FRAME_SAMPLES_8K])
            self._waiting = self._waiting[FRAME_SAMPLES_8K:]
            frames.append(self._interpolator.push(samples * _FULL_SCALE))
        return frames
