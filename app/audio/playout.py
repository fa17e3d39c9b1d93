"""When Moshi's audio goes out, and what of it.

Theory of operation. A frame goes out as soon as it exists, unless Twilio's buffer is well ahead already: then it waits
here, where it can still be dropped. What a frame finds unplayed when it is ready, in Twilio's buffer and in our queue,
is its lead. How much it sways (`Jitter`) tells how much is needed: `target_s`. What stays above that for long is
standing delay, and is got rid of: first by leaving out quiet packets, then by splicing speech, in the end by dropping
what waits and clearing Twilio's buffer. What stays below it is made up by playing a quiet packet twice.

Audio that was computed ahead (a greeting) says nothing of the line, nor does a frame that the caller's packets did not
come for (`JitterBuffer` waited before it filled it up).

`start`; `push` a frame, then `advance`; `advance` again at `get_timer`. `take` the marks that come back.
"""

from collections import Counter, deque
from dataclasses import dataclass

from app.audio import mulaw
from app.audio.playout_buffer import FIRST_JITTER_S, RATE_HZ, Jitter, PlayoutBuffer
from app.audio.time_stretch import PACKET, Samples, fade_in, leave_out_quiet, repeat_quiet, splice

PACKET_S = PACKET / RATE_HZ
TARGET_S = (0.005, 0.04)
MEAN_FRAMES = 12
SURE_FRAMES = 8
"""Over how many frames the lead must stay above its target to be standing delay: two thirds of a second."""
URGENT_S = 0.06
"""Standing delay from which speech is spliced, too."""
HOPELESS_S = 0.4
"""Standing delay that is dropped at one go."""
MARK_EVERY_S = 0.3
"""How often a mark goes behind the audio while they come back as foretold; each is a message to Twilio and one back."""
SURE_GAP_S = 0.002
"""A gap shorter than this is not faded after, for it may be none."""
MARK_DIGITS = 12
"""Digits of the number in a mark of ours; a peer may return anything."""
LOW_S = 0.003
"""Mean lead below which a quiet packet is played twice: a clock of the caller's that is slow, say."""


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send mu-law to the caller, and a mark of that name behind it ("": none); it is the sound of step `seq`.

    It will be heard from `heard_s` on, as far as is known; the line's whole round trip is in that.
    """

    payload: bytes
    mark: str
    seq: int
    heard_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SendMark:
    """Send a mark of that name alone."""

    mark: str


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Empty Twilio's buffer, which is heard at `heard_s`."""

    heard_s: float = 0.0


PlayoutCommand = SendAudio | SendMark | ClearAudio


class Playout:
    """One call's audio on its way out; `now` in seconds, monotonic."""

    def __init__(self, jitter_s: float = FIRST_JITTER_S) -> None:
        """Begin with what the workers' times are known to sway by."""
        self.counts: Counter[str] = Counter()
        self.meter = PlayoutBuffer()
        self._epoch = 0
        self._queue: deque[tuple[int, Samples]] = deque()
        self._leads_s: deque[float] = deque(maxlen=MEAN_FRAMES)
        self._jitter = Jitter(jitter_s)
        self._not_before_s: float | None = None
        self._mark_every_s = MARK_EVERY_S
        self._marked_s = float("-inf")

    @property
    def empty(self) -> bool:
        """Whether nothing waits here."""
        return not self._queue

    @property
    def target_s(self) -> float:
        """The lead that the line needs, as far as is known."""
        return min(TARGET_S[0] + self._jitter.size_s, TARGET_S[1])

    def start(self, now: float) -> list[PlayoutCommand]:
        """Begin: learn the round trip of the line before there is audio."""
        return [SendMark(self._mark(now))]

    def finish(self, now: float) -> list[PlayoutCommand]:
        """Put a mark behind what has been sent, and one behind each piece of audio from now on: it is the last."""
        self._mark_every_s = 0.0
        return [SendMark(self._mark(now))]

    def push(
        self, seq: int, samples: Samples, now: float, ahead: bool = False, filled: bool = False
    ) -> list[PlayoutCommand]:
        """Take the sound of step `seq`, int16 (640,) at 8 kHz.

        It was computed `ahead` of its time, or answers a frame that was `filled` up, or neither.
        """
        if self._not_before_s is None:
            self._not_before_s = now if ahead else now + self.target_s
        commands: list[PlayoutCommand] = []
        if not ahead:
            self._note_lead(now, filled)
            commands = self._drop_hopeless(now)
            samples = self._fit(samples)
        if len(samples):
            self._queue.append((seq, samples))
        return commands

    def advance(self, now: float) -> list[PlayoutCommand]:
        """Return what goes out now."""
        commands: list[PlayoutCommand] = []
        while self._queue and now >= self._due_s():
            commands.append(self._send(*self._queue.popleft(), now))
        return commands

    def get_timer(self) -> float | None:
        """Return when `advance` has something to send, None if nothing waits."""
        return self._due_s() if self._queue else None

    def take_mark(self, name: str, now: float) -> None:
        """Note a mark that has come back; those of audio that was cleared say nothing."""
        epoch, _, number = name.partition(":")
        if epoch == str(self._epoch) and len(number) <= MARK_DIGITS and number.isdecimal():
            self.meter.mark_returned(int(number), now)

    def buffered_s(self, now: float) -> float:
        """Return what a frame that is ready now finds unplayed, here and at Twilio's."""
        return self.meter.buffered_s(now) + sum(len(samples) for _, samples in self._queue) / RATE_HZ

    def _due_s(self) -> float:
        """Audio is due when Twilio's buffer has come down to its target and a packet."""
        end_s = self.meter.buffered_s(0.0)
        return max(self._not_before_s or 0.0, end_s - self.target_s - PACKET_S)

    def _send(self, seq: int, samples: Samples, now: float) -> SendAudio:
        buffered_s = self.meter.buffered_s(now)
        if buffered_s < -SURE_GAP_S:
            self.counts["underruns"] += 1
            samples = fade_in(samples)
        self.meter.send(len(samples), now)
        marked = now - self._marked_s >= self._mark_every_s or not self.meter.certain(now)
        heard_s = now + self.meter.round_trip_s + max(0.0, buffered_s)
        return SendAudio(mulaw.encode(samples), self._mark(now) if marked else "", seq, heard_s)

    def _mark(self, now: float) -> str:
        self._marked_s = now
        return f"{self._epoch}:{self.meter.mark(now)}"

    def _note_lead(self, now: float, filled: bool) -> None:
        buffered_s = self.buffered_s(now)
        self._leads_s.append(max(0.0, buffered_s))
        if not filled:
            self._jitter.note(self._mean_s() - buffered_s, now)

    def _mean_s(self) -> float:
        return sum(self._leads_s) / len(self._leads_s)

    def _standing_s(self) -> float:
        """Return by how much the lead has been too long all the while; 0 if that is not known yet."""
        lately_s = list(self._leads_s)[-SURE_FRAMES:]
        return max(0.0, min(lately_s) - self.target_s) if len(lately_s) == SURE_FRAMES else 0.0

    def _fit(self, samples: Samples) -> Samples:
        """Make a frame longer or shorter by whole packets, as the lead wants it."""
        if len(self._leads_s) == MEAN_FRAMES and self._mean_s() < LOW_S:
            longer = repeat_quiet(samples)
            self.counts["packets_repeated"] += (len(longer) - len(samples)) // PACKET
            self._forget((len(samples) - len(longer)) / RATE_HZ)
            return longer
        return self._shorten(samples)

    def _shorten(self, samples: Samples) -> Samples:
        packets = int(self._standing_s() / PACKET_S)
        if packets == 0:
            return samples
        shorter = leave_out_quiet(samples, packets)
        if len(shorter) == len(samples) and self._standing_s() >= URGENT_S:
            shorter = splice(samples)
            self.counts["packets_spliced"] += 1
        else:
            self.counts["packets_left_out"] += (len(samples) - len(shorter)) // PACKET
        self._forget((len(samples) - len(shorter)) / RATE_HZ)
        return shorter

    def _drop_hopeless(self, now: float) -> list[PlayoutCommand]:
        if self._standing_s() < HOPELESS_S:
            return []
        self.counts["clears"] += 1
        self.counts["frames_cleared"] += len(self._queue)
        self._queue.clear()
        self._leads_s.clear()
        self._epoch += 1
        self.meter.clear(now)
        return [ClearAudio(now + self.meter.round_trip_s)]

    def _forget(self, shortened_s: float) -> None:
        """Take what has been cut out of the leads that are remembered."""
        self._leads_s = deque((max(0.0, lead - shortened_s) for lead in self._leads_s), maxlen=MEAN_FRAMES)
