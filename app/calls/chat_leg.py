"""The audio of a chat: 24 kHz both ways, clocked by this service.

Theory of operation. `ChatInbound` makes the frames. Moshi's are sent as soon as they come, as Kyutai's servers send
theirs, so that a client can play them at once; a greeting, which is computed ahead, in pages of 40 ms at the pace of
speech, `GREETING_AHEAD_S` early. There are no marks: audio is taken to be heard when the audio before it has ended.
What each of the last frames has found unplayed beyond what jitter needs is standing latency; a frame is then shortened
by whole packets, which are cross-faded with what follows them.
"""

import math
from collections import Counter, deque

import numpy as np

from app.audio import mulaw
from app.audio.playout import (
    CERTAIN_GAP_S,
    CLEARED_FROM_S,
    MEAN_FRAMES,
    PACKET_S,
    STANDING_FRAMES,
    TARGET_S,
    PlayoutCommand,
    SendAudio,
)
from app.audio.playout_buffer import Jitter
from app.audio.resample import RATIO, Decimator
from app.calls.chat_inbound import ChatInbound, ChatMedia
from app.calls.leg import Leg, SendFrame
from app.calls.limits import CallLimits
from app.twilio.events import Media
from workers.messages import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Frame, Pcm

PAGE_SAMPLES = FRAME_SAMPLES // 2
PACKET_SAMPLES = mulaw.PACKET_SAMPLES * RATIO
GREETING_AHEAD_S, AHEAD_S = 0.02, 0.12
"""How much may be unplayed when more is sent."""
OPUS_CUSHION_S = 0.025
"""More for Opus: Kyutai's clients play what comes as it comes, in blocks of their own. Our page asks for PCM."""
STANDING_S, OPUS_STANDING_S = PACKET_S, 0.03
"""What each of `STANDING_FRAMES` found unplayed above the target, and is too much; Opus is shortened by 40 ms."""
TIMED_FRAMES = 64
"""Frames that may be on their way through the workers; of more, the oldest are not timed."""


class ChatLeg(Leg):
    """One chat; one in `opus` is shortened by pages only, since that is what its packets hold."""

    rate_hz = SAMPLE_RATE_HZ

    def __init__(self, limits: CallLimits, opus: bool = False) -> None:
        self._opus = opus
        self._counts: Counter[str] = Counter()
        self._inbound = ChatInbound(limits.takeover_s)
        self._greeting_frames = self._seq = limits.greeting_frames
        self._spoken_s: dict[int, float] = {}
        """When the first sample of each frame that the workers have arrived."""
        self._latencies_s: deque[tuple[float, float]] = deque(maxlen=MEAN_FRAMES)
        """When the last answers are heard, and how long that is after what they answer."""
        self._queue: deque[tuple[int, Pcm]] = deque()
        self._decimator = Decimator()
        self._until_s = -math.inf
        """When what has been sent will have been played."""
        self._not_before_s = 0.0
        """When the next audio may be sent."""
        self._found_s: deque[float] = deque(maxlen=MEAN_FRAMES)
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
        if frame.seq < self._greeting_frames:
            pieces = [frame.pcm[:PAGE_SAMPLES], frame.pcm[PAGE_SAMPLES:]]
        else:
            pieces = [self._keep_up(frame.pcm, now)]
        self._queue.extend((frame.seq, piece) for piece in pieces)
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
        if not self._queue:
            return math.inf
        ahead_s = GREETING_AHEAD_S if self._queue[0][0] < self._greeting_frames else AHEAD_S
        return max(self._not_before_s, self._until_s - ahead_s)

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

    def _keep_up(self, pcm: Pcm, now: float) -> Pcm:
        """Return what is to be heard of a frame: less if too much is unplayed."""
        found_s = self._unplayed_s(now)
        self._found_s.append(found_s)
        late_s = sum(self._found_s) / len(self._found_s) - found_s
        self._jitter.add(late_s, now)
        standing_s = self._standing_s()
        if found_s > CLEARED_FROM_S:
            self._counts["packets_dropped"] += sum(len(one) for _, one in self._queue) // PACKET_SAMPLES
            self._queue.clear()
        elif standing_s >= (OPUS_STANDING_S if self._opus else STANDING_S):
            return self._shorten(pcm, 2 if self._opus else min(2, int(standing_s / PACKET_S)))
        elif found_s < 0 or self._until_s == -math.inf:
            self._refill(late_s, now)
        return pcm

    def _shorten(self, pcm: Pcm, packets: int) -> Pcm:
        samples = packets * PACKET_SAMPLES
        if len(pcm) < 2 * samples:
            return pcm
        self._found_s = deque((one_s - packets * PACKET_S for one_s in self._found_s), MEAN_FRAMES)
        self._counts["packets_shortened"] += packets
        fade = np.linspace(0, 1, samples, dtype=np.float32)
        return np.concatenate([pcm[:samples] * (1 - fade) + pcm[samples : 2 * samples] * fade, pcm[2 * samples :]])

    def _refill(self, late_s: float, now: float) -> None:
        """All has been played: begin again so that the next frame finds the target unplayed, unless it is late, too."""
        self._counts["underruns"] += -math.inf < self._until_s < now - CERTAIN_GAP_S
        self._until_s = self._not_before_s = now + max(0.0, self._target_s - late_s)

    @property
    def _target_s(self) -> float:
        return min(TARGET_S[0] + self._jitter.jitter_s, TARGET_S[1]) + (OPUS_CUSHION_S if self._opus else 0.0)

    def _unplayed_s(self, now: float) -> float:
        waiting_s = sum(len(pcm) for _, pcm in self._queue) / SAMPLE_RATE_HZ
        return (0.0 if self._until_s == -math.inf else self._until_s - now) + waiting_s

    def _standing_s(self) -> float:
        """Return by how much too much has been unplayed all the while."""
        lately_s = list(self._found_s)[-STANDING_FRAMES:]
        return min(lately_s) - self._target_s if len(lately_s) == STANDING_FRAMES else 0.0

    def _send(self, seq: int, pcm: Pcm, now: float) -> SendAudio:
        heard_s = max(self._until_s, now)
        self._until_s = heard_s + len(pcm) / SAMPLE_RATE_HZ
        if (spoken_s := self._spoken_s.pop(seq, None)) is not None:
            self._latencies_s.append((heard_s, heard_s - spoken_s))
        return SendAudio(mulaw.encode(self._decimator.push_int16(pcm)), "", seq, heard_s, pcm)
