"""The caller's packets become frames, one every 80 ms whatever the line does.

Theory of operation. `media.timestamp` is the caller's clock. How much later than that a packet comes is its lateness;
the least lateness seen is the line's own, and creeps up a little so that a slow clock of the caller's is followed.

A frame is complete when its last sample has come. If it is not complete `patience_s` after it should have been, what
is missing is filled with silence: nobody may have spoken (some lines send nothing then) or the line is stalled, and in
both cases Moshi must go on. What comes for a time that has been filled is too late and is dropped; so a stall never
becomes a backlog. Patience grows with the lateness that the line shows. Where the clock jumps by more than a line can
explain, or stays behind for seconds, it is taken to have been set anew.
"""

import math
from collections import Counter

import numpy as np

from app.audio import mulaw
from app.audio.resample import Interpolator
from workers.messages import FRAME_S, Pcm

FRAME_SAMPLES_8K = 640
RATE_HZ = mulaw.SAMPLE_RATE_HZ
PACKET_SAMPLES = 160
PACKET_S = PACKET_SAMPLES / RATE_HZ
TOLERANCE_SAMPLES = 80
"""A jump of the clock by less than this is taken for a rounded timestamp."""
PATIENCE_S = (0.04, 0.1)
PATIENCE_FADING = 0.9998
"""By how much the memory of a late packet fades with each later one: by half in a minute."""
CREEP = 0.001
"""How fast, in seconds a second, the least lateness may rise."""
MAX_JUMP_SAMPLES = 2 * RATE_HZ
ALL_LATE_S = 3.0
"""After so long in which no frame became complete in time, for packets that came too late, the clock has changed."""
_FULL_SCALE = np.float32(1 / 32768)


class JitterBuffer:
    """Cut one call's packets into frames, beginning `start_s` after the first packet; `now` in seconds, monotonic."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.counts: Counter[str] = Counter()
        """`ms_filled`: silence put in; `ms_late`: audio dropped because its time had been filled."""
        self._interpolator = Interpolator()
        self._start = self._position = round(start_s * RATE_HZ)
        """The next sample of the caller's clock that a frame needs."""
        self._waiting = bytearray()
        self._origin = 0
        self._lateness_s: float | None = None
        self._seen_s = 0.0
        self._late_s = 0.0
        self._late_since_s: float | None = None
        """Since when packets come too late and no frame has become complete by itself."""
        self._phase_s: float | None = None

    def start(self, now: float, phase_s: float | None = None) -> None:
        """The stream starts: its clock is 0 now.

        With `phase_s` the first frame begins up to 80 ms earlier, such that frames become complete at that moment of
        our clock, give or take whole frames, as those of the other calls do; or less than a packet before it, for a
        frame that ended within a packet would only wait for the rest of it.
        """
        self._lateness_s = self._seen_s = now
        self._phase_s = phase_s

    def complete_s(self, now: float) -> float:
        """Return when on our clock the frame that is being filled becomes complete if nothing is late."""
        end = self._position - len(self._waiting) + FRAME_SAMPLES_8K
        return end / RATE_HZ + (now if self._lateness_s is None else self._lateness_s)

    def spoken_s(self, number: int) -> float | None:
        """Return when on our clock the first sample of frame `number` came; if it was late, when it should have."""
        return None if self._lateness_s is None else self.start_s + number * FRAME_S + self._lateness_s

    def position(self, timestamp_ms: int) -> int:
        """Return where on the caller's clock a packet begins, in samples; that of the last one if it was set anew."""
        return timestamp_ms * RATE_HZ // 1000 - self._origin

    @property
    def start_s(self) -> float:
        """When on the caller's clock his first frame begins."""
        return self._start / RATE_HZ

    @property
    def patience_s(self) -> float:
        """How long after its time a frame may still become complete."""
        return min(max(PATIENCE_S[0], 1.5 * self._late_s), PATIENCE_S[1])

    def push(self, timestamp_ms: int, payload: bytes, now: float) -> list[Pcm]:
        """Take one packet, return the frames it completes, each float32 (1920,) at 24 kHz."""
        self._set_clock(timestamp_ms * RATE_HZ // 1000, now)
        begin = self.position(timestamp_ms)
        self._note_lateness(now - (begin + len(payload)) / RATE_HZ, len(payload) / RATE_HZ, now)
        if self._phase_s is not None:  # not before a packet has shown how late the line is
            self._keep_beat(self._phase_s)
            self._phase_s = None
        frames = self._frames(self._on_time(begin, payload))
        if frames:
            self._late_since_s = None
        return frames

    def get_timer(self) -> float | None:
        """Return when the next frame must be filled up; None before the start."""
        return None if self._lateness_s is None else self.complete_s(0.0) + self.patience_s

    def handle_timer(self, now: float) -> list[Pcm]:
        """Return the frames that have waited long enough, filled up with silence."""
        frames: list[Pcm] = []
        while (due_s := self.get_timer()) is not None and now >= due_s:
            missing = FRAME_SAMPLES_8K - len(self._waiting)
            self.counts["ms_filled"] += missing * 1000 // RATE_HZ
            frames += self._frames(_silence(missing))
        return frames

    def _set_clock(self, stamp: int, now: float) -> None:
        """Take the caller's clock to have been set anew if what a packet says itself, `stamp`, wants it so."""
        ahead = stamp - self._origin - self._position
        late = ahead < -TOLERANCE_SAMPLES and self._position > self._start
        if late and self._late_since_s is None:
            self._late_since_s = now
        all_late = late and self._late_since_s is not None and now - self._late_since_s > ALL_LATE_S
        if ahead > MAX_JUMP_SAMPLES + self._start or all_late:
            self._origin, self._late_since_s, self._lateness_s = stamp - self._position, None, None
            self.counts["clock_resets"] += 1

    def _keep_beat(self, phase_s: float) -> None:
        early_s = (self.complete_s(0.0) - phase_s) % FRAME_S
        packets = math.ceil(early_s / PACKET_S - 1e-3)  # 20 µs: what is in phase already stays so
        self._start -= packets * PACKET_SAMPLES
        self._position -= packets * PACKET_SAMPLES

    def _note_lateness(self, lateness_s: float, length_s: float, now: float) -> None:
        """Note how late the last sample of a packet came; the first one came later by the length of the packet."""
        crept_s = lateness_s if self._lateness_s is None else self._lateness_s + CREEP * (now - self._seen_s)
        self._lateness_s, self._seen_s = min(lateness_s, crept_s), now
        late_s = lateness_s + length_s - self._lateness_s
        self._late_s = max(self._late_s * PATIENCE_FADING, min(late_s, PATIENCE_S[1]))

    def _on_time(self, begin: int, payload: bytes) -> bytes:
        """Return what of a packet is not too late, with silence before it where the caller's clock jumped."""
        ahead = begin - self._position
        if ahead > TOLERANCE_SAMPLES:
            self.counts["ms_filled"] += ahead * 1000 // RATE_HZ
            return _silence(ahead) + payload
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
            samples = mulaw.decode(bytes(self._waiting[:FRAME_SAMPLES_8K]))
            del self._waiting[:FRAME_SAMPLES_8K]
            frames.append(self._interpolator.push(samples * _FULL_SCALE))
        return frames


def _silence(samples: int) -> bytes:
    return bytes([mulaw.SILENCE]) * samples
