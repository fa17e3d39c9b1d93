"""A chat client's audio becomes frames, one every 80 ms whatever the client sends.

Theory of operation. A frame is what has arrived and not been read yet, the oldest first. It is due 80 ms after the one
before it; if too little is there then, `GRACE_S` are waited for the rest, and what is still missing is silence. Audio
that comes too late for its frame waits for the next one. What has waited through several frames (`STANDING`) is
standing latency and is dropped; of a burst the newest `MAX_WAITING_S` are kept at once. So a client that stalls, bursts
or stops neither adds latency nor leaves Moshi without frames.

The clock is that of the arrivals: a frame waits for nothing once its last packet has come, however long packets are.
The first whole frame sets it. Later it moves by what each of `SHIFT_FRAMES` frames in a row was early or late, so that
neither jitter nor a burst moves it.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from app.audio import mulaw
from app.audio.resample import Decimator
from app.twilio.events import Media
from workers.messages import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Pcm

GRACE_S = 0.04
"""How long a frame waits for audio while some has come lately."""
LATELY_S = 0.16
MAX_WAITING_S = 0.24
STANDING = ((4, 0.03), (12, 0.01))
"""Latency that has stood over so many frames and is more than so many seconds is dropped."""
FADE_SAMPLES = 120
SHIFT_FRAMES = 12
IN_PHASE_S = 0.002
_FADE = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ChatMedia(Media):
    """Audio of a chat client: `pcm`, (n,) at 24 kHz; the mu-law, of 80 ms at once, is for those who watch calls."""

    pcm: Pcm = field(repr=False, compare=False)


class ChatAudioCounter:
    """Makes `ChatMedia` of a client's audio; its timestamps count the samples."""

    def __init__(self) -> None:
        self._decimator = Decimator()
        self._rest = np.zeros(0, np.float32)
        self._samples = 0

    def count(self, pcm: Pcm) -> ChatMedia:
        samples = np.concatenate([self._rest, pcm])
        whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
        payload = mulaw.encode(self._decimator.push_int16(samples[:whole])) if whole else b""
        self._rest = samples[whole:]
        begin_ms = self._samples * 1000 // SAMPLE_RATE_HZ
        self._samples += len(pcm)
        return ChatMedia(begin_ms, payload, pcm)


class ChatInbound:
    """The first frame begins `start_s` after the start; `now` in seconds, monotonic."""

    def __init__(self, start_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self.start_s = start_s
        self.due_s = math.inf
        """When the next frame should be complete."""
        self._waiting = np.zeros(0, np.float32)
        self._arrived_s = -math.inf
        self._unread: deque[int] = deque(maxlen=STANDING[-1][0])
        """Samples that waited behind each of the last frames."""
        self._late_s: deque[float] = deque(maxlen=SHIFT_FRAMES)
        """How much later than due the last frames became whole."""
        self._is_set = False
        """Whether a whole frame has set the clock."""

    @property
    def waiting_s(self) -> float:
        return len(self._waiting) / SAMPLE_RATE_HZ

    def start(self, now: float, phase_s: float | None) -> None:
        """Start; with `phase_s` up to 80 ms earlier, so that frames become complete in phase with those of others."""
        complete_s = now + self.start_s + FRAME_S
        early_s = 0.0 if phase_s is None else (complete_s - phase_s) % FRAME_S
        self.start_s -= early_s
        self.due_s = complete_s - early_s

    def push(self, pcm: Pcm, now: float) -> Pcm | None:
        """Add audio; return a frame that is due and has waited for it. Before the first frame begins it is dropped."""
        if now < self.due_s - FRAME_S:
            return None
        self._arrived_s, was_whole = now, self._is_whole
        self._waiting = np.concatenate([self._waiting, pcm])
        self._drop(len(self._waiting) - round(MAX_WAITING_S * SAMPLE_RATE_HZ))
        if self._is_whole and not was_whole:
            self._follow(len(pcm), now)
        return self._frame(now) if self._is_whole and now >= self.due_s else None

    def get_timer(self) -> float:
        """Return when a frame must be made of what is there."""
        waits = not self._is_whole and self.due_s - self._arrived_s < LATELY_S
        return self.due_s + GRACE_S if waits else self.due_s

    def handle_timer(self, now: float) -> Pcm | None:
        """Return the frame that is due, float32 (1920,); those for which it is too late are left out."""
        return self._frame(now) if now >= self.get_timer() else None

    @property
    def _is_whole(self) -> bool:
        return len(self._waiting) >= FRAME_SAMPLES

    def _follow(self, packet: int, now: float) -> None:
        """Move the clock to when frames become whole: at once at first, later by what all were late, or early."""
        self._late_s.append(now - self.due_s)
        earliest_s, latest_s = min(self._late_s), max(self._late_s)
        is_behind = min(self._unread, default=0) > IN_PHASE_S * SAMPLE_RATE_HZ
        if not self._is_set:
            longer_s = max(0, packet - FRAME_SAMPLES) / SAMPLE_RATE_HZ
            self._is_set, self.due_s = True, now + min(longer_s, GRACE_S)
        elif len(self._late_s) == SHIFT_FRAMES and earliest_s > IN_PHASE_S:
            self.due_s += earliest_s
        elif len(self._late_s) == SHIFT_FRAMES and latest_s < -IN_PHASE_S and not is_behind:
            self.due_s += latest_s
        else:
            return
        self._late_s.clear()
        self._unread.clear()

    def _frame(self, now: float) -> Pcm:
        skipped = max(0, math.floor((now - self.due_s) / FRAME_S))
        self.counts["frames_skipped"] += skipped
        self.due_s += (skipped + 1) * FRAME_S
        frame = np.zeros(FRAME_SAMPLES, np.float32)
        read, self._waiting = self._waiting[:FRAME_SAMPLES], self._waiting[FRAME_SAMPLES:]
        frame[: len(read)] = read
        self.counts["ms_filled"] += (FRAME_SAMPLES - len(read)) * 1000 // SAMPLE_RATE_HZ
        self._drop_standing()
        return frame

    def _drop_standing(self) -> None:
        self._unread.append(len(self._waiting))
        for frames, limit_s in STANDING:
            last = list(self._unread)[-frames:]
            if len(last) == frames and min(last) > limit_s * SAMPLE_RATE_HZ:
                self._drop(min(last))
                self._unread.clear()
                self._late_s.clear()
                return

    def _drop(self, samples: int) -> None:
        """Drop the oldest samples, without a click."""
        if samples <= 0:
            return
        before, self._waiting = self._waiting[:FADE_SAMPLES], self._waiting[samples:].copy()
        length = min(len(before), len(self._waiting))
        self._waiting[:length] = before[:length] * (1 - _FADE[:length]) + self._waiting[:length] * _FADE[:length]
        self.counts["ms_late"] += samples * 1000 // SAMPLE_RATE_HZ
