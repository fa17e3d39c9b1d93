"""How the audio of a call comes and goes: the caller's audio becomes frames, Moshi's frames become audio for them.

`Leg` is what a session needs of it, `PhoneLeg` that of Twilio's media streams.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from dataclasses import dataclass

from app.audio import mulaw
from app.audio.jitter_buffer import JitterBuffer
from app.audio.playout import Playout, PlayoutCommand, SendAudio
from app.audio.resample import FILTERS_S, Decimator
from app.calls.limits import CallLimits
from app.twilio.events import Media
from workers.messages import FRAME_S, Frame, Pcm

FILLED_KEPT = 16
"""Frames filled with silence that may be on their way through the workers."""


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send one frame of the caller's, float32 (1920,), to the workers."""

    seq: int
    pcm: Pcm


class Leg(ABC):
    """One stream's audio; `now` in seconds, monotonic.

    The numbers of the caller's frames go on from those of the greeting.
    """

    rate_hz = mulaw.SAMPLE_RATE_HZ
    """Of the audio that comes and goes."""

    @property
    @abstractmethod
    def counts(self) -> Counter[str]:
        """What has been counted, by name."""

    @property
    @abstractmethod
    def start_s(self) -> float:
        """When on the caller's clock the first frame begins."""

    @property
    @abstractmethod
    def round_trip_s(self) -> float | None:
        """How long audio and its acknowledgement take, None while that is not known."""

    @abstractmethod
    def start(self, now: float, phase_s: float | None) -> list[PlayoutCommand]:
        """Start; `phase_s` is a moment at which the frames of other calls become complete."""

    @abstractmethod
    def push(self, packet: Media, now: float) -> list[SendFrame]:
        """Add audio of the caller's; return the frames that it completes."""

    @abstractmethod
    def fill(self, now: float) -> list[SendFrame]:
        """Return the frames that are due, filled with silence where audio is missing."""

    @abstractmethod
    def play(self, frame: Frame, now: float) -> list[PlayoutCommand]:
        """Queue one of Moshi's frames; return what is to be sent now."""

    @abstractmethod
    def send_audio(self, now: float) -> list[PlayoutCommand]:
        """Return the audio that has waited long enough."""

    @abstractmethod
    def finish(self, now: float) -> list[PlayoutCommand]:
        """No more audio comes; return what is to be sent so that its end becomes known."""

    @abstractmethod
    def on_gap_over(self) -> None:
        """Moshi's audio begins again after a gap that was not the line's."""

    @abstractmethod
    def handle_mark(self, name: str, now: float) -> bool:
        """Handle a mark that has come back; return whether all has been played."""

    @abstractmethod
    def frame_due_s(self) -> float:
        """Return when `fill` is due."""

    @abstractmethod
    def audio_due_s(self) -> float:
        """Return when `send_audio` is due."""

    @abstractmethod
    def played_s(self) -> float:
        """Return when all that has been sent will have been played; infinity if marks tell, or audio waits here."""

    @abstractmethod
    def complete_s(self, now: float) -> float:
        """Return when the caller's next frame becomes complete if nothing is late."""

    @abstractmethod
    def spoken_s(self, frame_s: float) -> float | None:
        """Return when on our clock the caller said what is at `frame_s` of the frames' clock; None if unknown.

        Frame `seq` begins at `seq * FRAME_S`.
        """

    @abstractmethod
    def position(self, timestamp_ms: int) -> int:
        """Return where on the caller's clock audio begins, in samples at `rate_hz`."""

    @abstractmethod
    def buffered_s(self, now: float) -> float:
        """Return how much of Moshi's audio is still to be played, here and at the peer."""

    @abstractmethod
    def mouth_to_ear_s(self, sent: SendAudio) -> float | None:
        """Return how long after the caller's frame its answer is heard; None for a greeting, which answers nothing."""


class PhoneLeg(Leg):
    """Packets, marks and codec of one media stream of Twilio's."""

    def __init__(self, limits: CallLimits) -> None:
        self.jitter_buffer = JitterBuffer(limits.takeover_s)
        self.playout = Playout(limits.jitter_s)
        self._greeting_frames = self._seq = limits.greeting_frames
        self._decimator = Decimator()
        self._filled: deque[int] = deque(maxlen=FILLED_KEPT)

    @property
    def counts(self) -> Counter[str]:
        return self.jitter_buffer.counts + self.playout.counts

    @property
    def start_s(self) -> float:
        return self.jitter_buffer.start_s

    @property
    def round_trip_s(self) -> float | None:
        return self.playout.buffer.known_round_trip_s

    def start(self, now: float, phase_s: float | None) -> list[PlayoutCommand]:
        self.jitter_buffer.start(now, phase_s)
        return self.playout.start(now)

    def push(self, packet: Media, now: float) -> list[SendFrame]:
        frames = self.jitter_buffer.push(packet.timestamp_ms, packet.payload, now)
        return self._number(frames) if frames else []

    def fill(self, now: float) -> list[SendFrame]:
        frames = self._number(self.jitter_buffer.handle_timer(now))
        self._filled.extend(frame.seq for frame in frames)
        return frames

    def play(self, frame: Frame, now: float) -> list[PlayoutCommand]:
        if frame.pcm is None:
            return []
        ahead, filled = frame.seq < self._greeting_frames, frame.seq in self._filled
        commands = self.playout.push(frame.seq, self._decimator.push_int16(frame.pcm), now, ahead, filled)
        return [*commands, *self.send_audio(now)]

    def send_audio(self, now: float) -> list[PlayoutCommand]:
        return self.playout.advance(now)

    def finish(self, now: float) -> list[PlayoutCommand]:
        return self.playout.finish(now)

    def on_gap_over(self) -> None:
        self.playout.restart()

    def handle_mark(self, name: str, now: float) -> bool:
        return self.playout.handle_mark(name, now)

    def frame_due_s(self) -> float:
        return self.jitter_buffer.get_timer()

    def audio_due_s(self) -> float:
        return self.playout.get_timer()

    def played_s(self) -> float:
        return math.inf

    def complete_s(self, now: float) -> float:
        return self.jitter_buffer.complete_s(now)

    def spoken_s(self, frame_s: float) -> float | None:
        return self.jitter_buffer.spoken_s(frame_s / FRAME_S - self._greeting_frames)

    def position(self, timestamp_ms: int) -> int:
        return self.jitter_buffer.position(timestamp_ms)

    def buffered_s(self, now: float) -> float:
        return max(0.0, self.playout.buffered_s(now))

    def mouth_to_ear_s(self, sent: SendAudio) -> float | None:
        number = sent.seq - self._greeting_frames
        spoken_s = self.jitter_buffer.spoken_s(number) if number >= 0 else None
        return None if spoken_s is None else sent.heard_s - spoken_s + FILTERS_S

    def _number(self, frames: list[Pcm]) -> list[SendFrame]:
        first, self._seq = self._seq, self._seq + len(frames)
        return [SendFrame(seq, pcm) for seq, pcm in enumerate(frames, first)]
