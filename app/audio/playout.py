"""When Moshi's audio is sent to Twilio, and what of it.

Theory of operation. A frame is sent as soon as it exists, unless Twilio's buffer is well filled already: then it waits
here, where it can still be dropped. `buffered_s` is what a frame finds unplayed when it is ready, in Twilio's buffer
and in our queue. How much that varies (`Jitter`) tells how much is needed: `target_s`. What stays above it for long is
standing latency and is removed: first by dropping quiet packets, then by shortening speech, in the end by dropping what
waits and clearing Twilio's buffer. What stays below it is made up by repeating a quiet packet.

Audio that was computed ahead (a greeting) says nothing of the line, nor does the answer to a frame that was filled with
silence, since the `JitterBuffer` waited for that.

Call `start`; `push` a frame, then `advance`; `advance` again at `get_timer`; `handle_mark` for marks that come back.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from app.audio import mulaw
from app.audio.mulaw import PACKET_SAMPLES, SAMPLE_RATE_HZ
from app.audio.playout_buffer import FIRST_JITTER_S, Jitter, PlayoutBuffer
from app.audio.time_stretch import Samples, drop_silence, fade_in, repeat_silence, shorten_speech
from workers.messages import Pcm

PACKET_S = PACKET_SAMPLES / SAMPLE_RATE_HZ
TARGET_S = (0.005, 0.04)
"""What should be unplayed when a frame comes: the first and the workers' jitter, at most the second."""
MEAN_FRAMES = 12
STANDING_FRAMES = 8
"""Over how many frames `buffered_s` must stay above its target to be standing latency: two thirds of a second."""
URGENT_S = 0.06
"""Standing latency from which speech is shortened, too."""
CLEARED_FROM_S = 0.4
"""Standing latency that is dropped at once."""
MARK_EVERY_S = 0.3
"""How often a mark is sent while they come back as predicted; each is a message to Twilio and one back."""
CERTAIN_GAP_S = 0.002
"""After a gap shorter than this there is no fade-in, for it may be none."""
MARK_DIGITS = 12
"""Digits of the number in a mark of ours; a peer may return anything."""
LOW_S = 0.003
"""Mean `buffered_s` below which a quiet packet is repeated: a caller's clock that is slow, say."""


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send mu-law to the caller, and a mark of that name behind it ("": none); it is the sound of step `seq`.

    It is heard from `heard_s` on, as far as is known; the line's whole round trip is in that. A chat is sent `pcm`
    instead, float32 at 24 kHz.
    """

    payload: bytes
    mark: str
    seq: int
    heard_s: float = 0.0
    pcm: Pcm | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SendMark:
    """Send a mark of that name alone."""

    mark: str


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Clear Twilio's buffer, which is heard at `heard_s`."""

    heard_s: float = 0.0


PlayoutCommand = SendAudio | SendMark | ClearAudio


class Playout:
    """One call's audio on its way out, at first with the known jitter of the workers; `now` in seconds, monotonic."""

    def __init__(self, jitter_s: float = FIRST_JITTER_S) -> None:
        self.counts: Counter[str] = Counter()
        self.buffer = PlayoutBuffer()
        self._epoch = 0
        self._queue: deque[tuple[int, Samples]] = deque()
        self._buffered_s: deque[float] = deque(maxlen=MEAN_FRAMES)
        """What the last frames found."""
        self._jitter = Jitter(jitter_s)
        self._not_before_s: float | None = None
        """When the first audio may be sent; None until there is some, and after a gap."""
        self._mark_every_s = MARK_EVERY_S
        self._marked_s, self._last_mark = -math.inf, ""

    @property
    def target_s(self) -> float:
        """How much buffered audio the line needs, as far as is known."""
        return min(TARGET_S[0] + self._jitter.jitter_s, TARGET_S[1])

    def start(self, now: float) -> list[PlayoutCommand]:
        """Start with a mark, which shows the round trip before there is audio."""
        return [SendMark(self._mark(now))]

    def finish(self, now: float) -> list[PlayoutCommand]:
        """Send a mark behind what has been sent, and one behind each piece of audio from now on: it is the last."""
        self._mark_every_s = 0.0
        return [SendMark(self._mark(now))]

    def push(
        self, seq: int, samples: Samples, now: float, ahead: bool = False, filled: bool = False
    ) -> list[PlayoutCommand]:
        """Queue the sound of step `seq`, int16 at 8 kHz: four packets, fewer where a server's speech ends.

        It was computed `ahead` of its time, or answers a frame that was `filled` with silence, or neither.
        """
        is_first = self._not_before_s is None
        if is_first:
            self._not_before_s = now if ahead else now + self.target_s
        commands: list[PlayoutCommand] = []
        if not ahead:
            buffered_s = self.buffered_s(now)
            self._buffered_s.append(max(0.0, buffered_s))
            if not filled and not is_first:
                self._jitter.add(self._mean_s() - buffered_s, now)
            commands = self._clear_backlog(now)
            samples = self._stretch(samples)
        if len(samples):
            self._queue.append((seq, samples))
        return commands

    def restart(self) -> None:
        """Take the next frame for the first one: that nothing came for a while says nothing of the line."""
        self._not_before_s = None
        self._buffered_s.clear()

    def advance(self, now: float) -> list[PlayoutCommand]:
        """Return what is to be sent now."""
        commands: list[PlayoutCommand] = []
        while self._queue and now >= self.get_timer():
            commands.append(self._send(*self._queue.popleft(), now))
        return commands

    def get_timer(self) -> float:
        """Return when `advance` has something to send: Twilio's buffer is down to its target and a packet."""
        if not self._queue:
            return math.inf
        return max(self._not_before_s or 0.0, self.buffer.buffered_s(0.0) - self.target_s - PACKET_S)

    def handle_mark(self, name: str, now: float) -> bool:
        """Handle a mark that has come back; return whether all has been played.

        The marks of audio that was cleared say nothing of the buffer.
        """
        epoch, _, number = name.partition(":")
        if epoch == str(self._epoch) and len(number) <= MARK_DIGITS and number.isdecimal():
            self.buffer.handle_mark(int(number), now)
        return not self._queue and name == self._last_mark

    def buffered_s(self, now: float) -> float:
        """Return what a frame that is ready now finds unplayed, here and at Twilio's."""
        waiting_s = sum(len(samples) for _, samples in self._queue) / SAMPLE_RATE_HZ if self._queue else 0.0
        return self.buffer.buffered_s(now) + waiting_s

    def _send(self, seq: int, samples: Samples, now: float) -> SendAudio:
        buffered_s = self.buffer.buffered_s(now)
        if buffered_s < -CERTAIN_GAP_S:
            self.counts["underruns"] += 1
            samples = fade_in(samples)
        self.buffer.send(len(samples), now)
        marked = now - self._marked_s >= self._mark_every_s or not self.buffer.is_certain(now)
        heard_s = now + self.buffer.round_trip_s + max(0.0, buffered_s)
        return SendAudio(mulaw.encode(samples), self._mark(now) if marked else "", seq, heard_s)

    def _mark(self, now: float) -> str:
        self._marked_s = now
        self._last_mark = f"{self._epoch}:{self.buffer.mark(now)}"
        return self._last_mark

    def _mean_s(self) -> float:
        return sum(self._buffered_s) / len(self._buffered_s)

    def _standing_s(self) -> float:
        """Return by how much `buffered_s` has been too long all the while; 0 if that is not known yet."""
        lately_s = list(self._buffered_s)[-STANDING_FRAMES:]
        return max(0.0, min(lately_s) - self.target_s) if len(lately_s) == STANDING_FRAMES else 0.0

    def _stretch(self, samples: Samples) -> Samples:
        """Make a frame longer or shorter by whole packets, as the buffer needs it."""
        if len(self._buffered_s) == MEAN_FRAMES and self._mean_s() < LOW_S:
            stretched = repeat_silence(samples)
            self.counts["packets_repeated"] += len(stretched) > len(samples)
        else:
            stretched = self._shorten(samples)
        if longer_s := (len(stretched) - len(samples)) / SAMPLE_RATE_HZ:
            self._buffered_s = deque((max(0.0, one + longer_s) for one in self._buffered_s), maxlen=MEAN_FRAMES)
        return stretched

    def _shorten(self, samples: Samples) -> Samples:
        standing_s = self._standing_s()
        packets = int(standing_s / PACKET_S)
        shorter = drop_silence(samples, packets) if packets else samples
        if len(shorter) == len(samples) > PACKET_SAMPLES and standing_s >= URGENT_S:
            self.counts["packets_shortened"] += 1
            return shorten_speech(samples)
        self.counts["packets_dropped"] += (len(samples) - len(shorter)) // PACKET_SAMPLES
        return shorter

    def _clear_backlog(self, now: float) -> list[PlayoutCommand]:
        if self._standing_s() < CLEARED_FROM_S:
            return []
        self.counts["clears"] += 1
        self.counts["frames_cleared"] += len(self._queue)
        self._queue.clear()
        self._buffered_s.clear()
        self._epoch += 1
        self.buffer.clear(now)
        return [ClearAudio(now + self.buffer.round_trip_s)]
