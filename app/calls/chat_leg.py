"""The audio of a chat: 24 kHz both ways, clocked by this service.

Theory of operation. A frame is due every 80 ms, whatever the client sends. It is what has arrived and not been read
yet, the oldest first; if that is too little, `GRACE_S` are waited for the rest, and what is still missing is silence.
Audio that comes too late for its frame waits for the next one. What has waited through several frames (`STANDING`) is
standing latency and is dropped; of a burst the newest `MAX_WAITING_S` are kept at once. So a client that stalls, bursts
or stops neither adds latency nor leaves Moshi without frames. Audio comes in packets, and a frame that is due between
two of them has waited for nothing. So the first whole frame sets the clock anew, as a packet comes (`_follow`).

Moshi's frames are sent in pages of 40 ms at the pace of speech, `AHEAD_S` early: no client needs to hold much of them.
There are no marks: a page is taken to be heard when the one before it has ended. What every frame of the last ones has
found unplayed beyond what jitter needs is standing latency, too; a frame is then shortened to one page, in which its
halves overlap: a quiet one first, speech if much is unplayed.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from app.audio import mulaw
from app.audio.playout import PlayoutCommand, SendAudio
from app.audio.playout_buffer import Jitter
from app.audio.resample import RATIO, Decimator
from app.calls.leg import Leg, SendFrame
from app.calls.limits import CallLimits
from app.twilio.events import Media
from workers.messages import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Frame, Pcm

PAGE_SAMPLES = FRAME_SAMPLES // 2
PAGE_S = FRAME_S / 2
PAGE_PACKETS = 2
"""What a page counts as: packets of 20 ms, as on the phone."""
GRACE_S = 0.04
"""How long a frame waits for audio while some has come lately."""
LATELY_S = 0.16
MAX_WAITING_S = 0.24
STANDING = ((4, 0.04), (12, 0.01))
"""Latency that has stood over so many frames and is more than so many seconds is dropped."""
FADE_SAMPLES = 120
SHIFT_FRAMES = 12
"""Over how many frames the packets must be out of phase."""
IN_PHASE_S = 0.002
AHEAD_S = 0.02
TARGET_S = (0.005, 0.04)
"""What should be unplayed when a frame comes: the first and the workers' jitter, at most the second."""
UNPLAYED_FRAMES = 12
STANDING_FRAMES = 8
STANDING_S, URGENT_S = 0.01, 0.04
"""What each of so many frames found unplayed above the target, and is too much: before a quiet frame, before any."""
QUIET_RMS = 0.0056
"""-45 dBFS."""
CLEARED_FROM_S = 0.4
"""What is unplayed and dropped at once."""
CERTAIN_GAP_S = 0.002
TIMED_FRAMES = 64
"""Frames that may be on their way through the workers; of more, the oldest are not timed."""
_FADE = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
_PAGE_FADE = np.linspace(0, 1, PAGE_SAMPLES, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ChatMedia(Media):
    """Audio of a chat client: `pcm`, (n,) at 24 kHz; the mu-law of it is for those who watch calls."""

    pcm: Pcm = field(repr=False, compare=False)


class ChatAudioCounter:
    """Makes `ChatMedia` of a client's audio; its timestamps count the samples."""

    def __init__(self) -> None:
        self._decimator = Decimator()
        self._rest = np.zeros(0, np.float32)
        self._samples = 0

    def count(self, pcm: Pcm) -> ChatMedia:
        samples = np.concatenate([self._rest, pcm])
        whole = len(samples) // RATIO * RATIO
        payload = mulaw.encode(self._decimator.push_int16(samples[:whole])) if whole else b""
        self._rest = samples[whole:]
        begin_ms = self._samples * 1000 // SAMPLE_RATE_HZ
        self._samples += len(pcm)
        return ChatMedia(begin_ms, payload, pcm)


class ChatInbound:
    """The client's audio becomes frames, one every 80 ms."""

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
        self._follows = False

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
            self._follow(min(len(pcm), FRAME_SAMPLES), now)
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
        """Move the clock to when frames become whole, if all are late; drop a packet that all have waited behind."""
        self._late_s.append(now - self.due_s)
        if not self._follows:
            self._follows = True
            self._drop(packet if now < self.due_s else 0)
            self.due_s = now + (packet / SAMPLE_RATE_HZ if now < self.due_s else 0.0)
        elif len(self._late_s) < SHIFT_FRAMES:
            return
        elif max(packet / SAMPLE_RATE_HZ, 2 * IN_PHASE_S) <= IN_PHASE_S - max(self._late_s):
            self._drop(packet)
        elif (late_s := min(self._late_s)) > IN_PHASE_S:
            self.due_s += late_s
        else:
            return
        self._late_s.clear()

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


class ChatLeg(Leg):
    """One chat; `cushion_s` more than the target is kept unplayed, for a client that has no buffer of its own."""

    rate_hz = SAMPLE_RATE_HZ

    def __init__(self, limits: CallLimits, cushion_s: float = 0.0) -> None:
        self._cushion_s = cushion_s
        self._counts: Counter[str] = Counter()
        self._inbound = ChatInbound(limits.takeover_s)
        self._greeting_frames = self._seq = limits.greeting_frames
        self._spoken_s: dict[int, float] = {}
        """When the first sample of each frame that the workers have arrived."""
        self._latencies_s: deque[tuple[float, float]] = deque(maxlen=UNPLAYED_FRAMES)
        """When the last answers are heard, and how long that is after what they answer."""
        self._queue: deque[tuple[int, Pcm]] = deque()
        self._decimator = Decimator()
        self._until_s = -math.inf
        """When what has been sent will have been played."""
        self._send_s = -math.inf
        """When the next page is sent."""
        self._found_s: deque[float] = deque(maxlen=UNPLAYED_FRAMES)
        """What the last frames found unplayed; below 0 by how much they were too late."""
        self._jitter = Jitter(limits.jitter_s)

    @property
    def counts(self) -> Counter[str]:
        return self._inbound.counts + self._counts

    @property
    def start_s(self) -> float:
        return self._inbound.start_s

    @property
    def round_trip_s(self) -> float | None:
        return 0.0

    def start(self, now: float, phase_s: float | None) -> list[PlayoutCommand]:
        self._inbound.start(now, phase_s)
        return []

    def push(self, packet: Media, now: float) -> list[SendFrame]:
        assert isinstance(packet, ChatMedia)
        return self._number(self._inbound.push(packet.pcm, now), now)

    def fill(self, now: float) -> list[SendFrame]:
        return self._number(self._inbound.handle_timer(now), now)

    def play(self, frame: Frame, now: float) -> list[PlayoutCommand]:
        if frame.pcm is None:
            return []
        pages = [frame.pcm[:PAGE_SAMPLES], frame.pcm[PAGE_SAMPLES:]]
        if frame.seq >= self._greeting_frames:
            pages = self._keep_up(pages, now)
            self._refill(now)
        self._queue.extend((frame.seq, page) for page in pages)
        return self.send_audio(now)

    def send_audio(self, now: float) -> list[PlayoutCommand]:
        commands: list[PlayoutCommand] = []
        while self._queue and now >= self.audio_due_s():
            commands.append(self._send(*self._queue.popleft(), now))
        return commands

    def finish(self, now: float) -> list[PlayoutCommand]:
        return []

    def on_gap_over(self) -> None:
        self._found_s.clear()

    def handle_mark(self, name: str, now: float) -> bool:
        return False

    def frame_due_s(self) -> float:
        return self._inbound.get_timer()

    def audio_due_s(self) -> float:
        return max(0.0, self._send_s) if self._queue else math.inf

    def played_s(self) -> float:
        return math.inf if self._queue else max(0.0, self._until_s)

    def complete_s(self, now: float) -> float:
        return self._inbound.due_s

    def spoken_s(self, frame_s: float) -> float | None:
        spoken_s = self._inbound.due_s - FRAME_S + frame_s - self._seq * FRAME_S
        return spoken_s if spoken_s < math.inf else None

    def position(self, timestamp_ms: int) -> int:
        return timestamp_ms * SAMPLE_RATE_HZ // 1000

    def buffered_s(self, now: float) -> float:
        return max(0.0, self._unplayed_s(now))

    def mouth_to_ear_s(self, sent: SendAudio) -> float | None:
        return next((latency_s for heard_s, latency_s in self._latencies_s if heard_s == sent.heard_s), None)

    def _number(self, pcm: Pcm | None, now: float) -> list[SendFrame]:
        if pcm is None:
            return []
        frame, self._seq = SendFrame(self._seq, pcm), self._seq + 1
        self._spoken_s[frame.seq] = now - FRAME_S - self._inbound.waiting_s
        if len(self._spoken_s) > TIMED_FRAMES:
            del self._spoken_s[next(iter(self._spoken_s))]
        return [frame]

    def _keep_up(self, pages: list[Pcm], now: float) -> list[Pcm]:
        """Return the pages of a frame, fewer if too much is unplayed."""
        found_s = self._unplayed_s(now)
        self._found_s.append(found_s)
        self._jitter.add(sum(self._found_s) / len(self._found_s) - found_s, now)
        if found_s > CLEARED_FROM_S:
            self._counts["packets_dropped"] += PAGE_PACKETS * len(self._queue)
            self._queue.clear()
        elif self._standing_s() > (STANDING_S if _is_quiet(pages) else URGENT_S):
            self._found_s = deque((one_s - PAGE_S for one_s in self._found_s), UNPLAYED_FRAMES)
            self._counts["packets_shortened"] += PAGE_PACKETS
            return [pages[0] * (1 - _PAGE_FADE) + pages[1] * _PAGE_FADE]
        return pages

    def _refill(self, now: float) -> None:
        """Where all has been played, begin again with the target unplayed, so that the next frame may be later."""
        if not self._queue and self._until_s < now:
            self._counts["underruns"] += -math.inf < self._until_s < now - CERTAIN_GAP_S
            self._until_s = self._send_s = now + self._target_s

    @property
    def _target_s(self) -> float:
        return self._cushion_s + min(TARGET_S[0] + self._jitter.jitter_s, TARGET_S[1])

    def _unplayed_s(self, now: float) -> float:
        return (0.0 if self._until_s == -math.inf else self._until_s - now) + len(self._queue) * PAGE_S

    def _standing_s(self) -> float:
        """Return by how much too much has been unplayed all the while."""
        lately_s = list(self._found_s)[-STANDING_FRAMES:]
        return min(lately_s) - self._target_s if len(lately_s) == STANDING_FRAMES else 0.0

    def _send(self, seq: int, pcm: Pcm, now: float) -> SendAudio:
        heard_s = max(self._until_s, now)
        self._until_s = heard_s + PAGE_S
        self._send_s = self._until_s - AHEAD_S
        if (spoken_s := self._spoken_s.pop(seq, None)) is not None:
            self._latencies_s.append((heard_s, heard_s - spoken_s))
        return SendAudio(mulaw.encode(self._decimator.push_int16(pcm)), "", seq, heard_s, pcm)


def _is_quiet(pages: list[Pcm]) -> bool:
    return max(float(np.mean(page**2)) for page in pages) < QUIET_RMS**2
