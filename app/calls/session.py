"""One call, from the reservation of its slot to its end: events in, commands out, time as an argument.

Theory of operation. A session is RESERVED while the phone rings; Moshi's greeting is computed meanwhile and kept. Its
socket CONNECTs it, Twilio's `start` makes it LIVE, anything can END it. While it is live the caller's packets become
frames for the workers (`JitterBuffer`) and the workers' frames become packets for the caller (`Playout`). When it has
gone on or been silent for too long, or the service is to stop, it DRAINs: what Moshi has said is heard to its end.

The greeting was computed ahead, so it plays for a while in which Moshi is not listening yet. The caller's frames take
over so early that the first answer to them arrives as the greeting's last frame is being played: `_takeover_s`.

`session.receive(event)`, `session.handle_frame(frame)`, `session.handle_timer()` return commands, which
the shell carries out in order. `session.get_timer()` is when it next wants `handle_timer`. After an `End` there are
none.
"""

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto

from app.audio.jitter_buffer import JitterBuffer
from app.audio.outbound import Outbound
from app.audio.playout import Playout, PlayoutCommand, SendAudio, SendMark
from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.idle import IdleLimit
from app.calls.record import CallRecord, EndReason
from app.calls.statistics import Histograms
from app.twilio.events import CallSid, DtmfPressed, Event, MarkPlayed, Media, Started, Stopped
from workers.messages import FRAME_S, Frame, Pcm

START_WITHIN_S = 10.0
"""How long a socket may stay silent before its `start`."""
DRAIN_WITHIN_S = 3.0
FILLED_KEPT = 16
ASKED_KEPT = 64
"""Frames that may be on their way through the workers; of more the oldest are not timed."""
LEAD_S = 0.01
"""What Twilio's buffer should still hold when the first answer to the caller arrives."""
FILTERS_S = 0.0029
"""What the two resampling filters delay."""
SILENT_STEPS = 1
"""Steps of a greeting that yield no sound: Moshi's acoustic delay."""


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Pass one frame of the caller's, float32 (1920,), to the workers."""

    seq: int
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class End:
    """Close the socket if there is one, give the slot back, log the reason."""

    reason: EndReason
    detail: str = ""


Command = PlayoutCommand | SendFrame | End


class CallState(Enum):
    """How far the call has come."""

    RESERVED = auto()
    CONNECTED = auto()
    LIVE = auto()
    DRAINING = auto()
    ENDED = auto()


class CallChange(Enum):
    """What moves a call on."""

    SOCKET = auto()
    START = auto()
    DRAIN = auto()
    END = auto()


NEXT: dict[CallState, dict[CallChange, CallState]] = {
    CallState.RESERVED: {CallChange.SOCKET: CallState.CONNECTED, CallChange.END: CallState.ENDED},
    CallState.CONNECTED: {CallChange.START: CallState.LIVE, CallChange.END: CallState.ENDED},
    CallState.LIVE: {CallChange.DRAIN: CallState.DRAINING, CallChange.END: CallState.ENDED},
    CallState.DRAINING: {CallChange.END: CallState.ENDED},
    CallState.ENDED: {},
}


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What a call is given: frames of greeting, and seconds: until a socket must come, in all, through the workers.

    `jitter_s` is by how much the workers' time sways, `idle_s` for how long the caller may be silent (0: for ever). The
    key `hangup_digit` ends the call; "" for none.
    """

    greeting_frames: int
    socket_within_s: float
    max_call_s: float
    processing_s: float
    jitter_s: float = FIRST_JITTER_S
    idle_s: float = 0.0
    hangup_digit: str = ""


class CallSession:
    """The rules of one call, for one stream of it.

    `account_sid` "" accepts any account; `histograms` are what all calls add to. `record` is that of a call which comes
    back, None for a new one.
    """

    def __init__(
        self,
        call_sid: CallSid,
        account_sid: str,
        limits: CallLimits,
        now: float,
        histograms: Histograms | None = None,
        record: CallRecord | None = None,
        webhook_token: str = "",
    ) -> None:
        self.record = record or CallRecord(call_sid, now)
        self.record.greeting_frames, self.record.takeover_s = limits.greeting_frames, _takeover_s(limits)
        self.stream = self.record.open_stream(now, webhook_token)
        self.state = CallState.RESERVED
        self._counted_before = Counter(self.record.counts)
        self._account_sid = account_sid
        self._limits = limits
        self._histograms = histograms or Histograms()
        self._asked: deque[tuple[int, float]] = deque(maxlen=ASKED_KEPT)
        """Which frames the workers have, and since when."""
        self._jitter_buffer = JitterBuffer(self.record.takeover_s)
        self._outbound = Outbound()
        self._playout = Playout(limits.jitter_s)
        self._idle = IdleLimit(limits.idle_s, now)
        self._drained = EndReason.TIME_LIMIT
        self._greeting: list[Frame] = []
        self._has_sounded = False
        self._last_mark = ""
        self._filled: deque[int] = deque(maxlen=FILLED_KEPT)
        self._seq = limits.greeting_frames
        self._deadline_s = now + limits.socket_within_s

    def on_socket_open(self, now: float) -> None:
        """The call's socket is there. Raises KeyError if the call cannot have one now."""
        self._move(CallChange.SOCKET)
        self.record.on_connected(self.stream, now)
        self._deadline_s = now + START_WITHIN_S

    def receive(self, event: Event, now: float, phase_s: float | None = None) -> list[Command]:
        """Take one of Twilio's events; `phase_s` is a moment at which the frames of other calls become complete."""
        match event:
            case Media(timestamp_ms, payload) if self.state is CallState.LIVE:
                self.record.counts["packets_in"] += 1
                self._idle.hear(payload, now)
                frames = self._jitter_buffer.push(timestamp_ms, payload, now)
                self.record.takeover_s = self._jitter_buffer.start_s
                return self._listen(frames, now)
            case MarkPlayed(name):
                return self._take_mark(name, now)
            case Started() if self.state is CallState.CONNECTED:
                return self._start(event, now, phase_s)
            case Stopped():
                return self.end(EndReason.CALLER_HUNG_UP, now)
            case DtmfPressed(digit):
                return self._take_key(digit, now)
        return []

    def handle_frame(self, frame: Frame, now: float) -> list[Command]:
        """Take one of Moshi's frames."""
        if self.state is CallState.ENDED:
            return []
        self.record.on_frame(frame, now)
        self._histograms.on_frame(frame.spans, self._asked_s(frame.seq), now)
        if self.state is CallState.LIVE:
            return self._speak(frame, now)
        if self.state is not CallState.DRAINING:
            self._greeting.append(frame)
        return []

    def phase_s(self, now: float) -> float | None:
        """Return when the caller's next frame becomes complete, None while the call is not live."""
        return self._jitter_buffer.complete_s(now) if self.state is CallState.LIVE else None

    def buffered_s(self, now: float) -> float:
        """Return how much of Moshi's audio is still to be heard, here and in Twilio's buffer."""
        return max(0.0, self._playout.buffered_s(now))

    def position(self, timestamp_ms: int) -> int | None:
        """Return where on the caller's clock a packet begins, in samples, None while there is no stream."""
        return (
            self._jitter_buffer.position(timestamp_ms) if self.state in (CallState.LIVE, CallState.DRAINING) else None
        )

    @property
    def counts(self) -> Counter[str]:
        """What this stream has counted so far, by name; the record has that of all streams, once they have ended."""
        counted = self.record.counts - self._counted_before
        return counted if self.state is CallState.ENDED else counted + self._jitter_buffer.counts + self._playout.counts

    @property
    def round_trip_s(self) -> float | None:
        """The line's round trip, None until it is known; what was sent before is heard later by that than it says."""
        return self._playout.meter.known_round_trip_s

    def get_timer(self) -> float:
        """When `handle_timer` wants to be called next."""
        due_s = [self._deadline_s, self._playout.get_timer()]
        if self.state is CallState.LIVE:
            due_s += [self._jitter_buffer.get_timer(), self._idle.due_s]
        return min(moment for moment in due_s if moment is not None)

    def handle_timer(self, now: float) -> list[Command]:
        """Do what is due: fill up a frame that is late, send audio that has waited, end what has lasted too long."""
        commands: list[Command] = []
        if self.state is CallState.LIVE:
            commands += self._fill(now)
        if self.state in (CallState.LIVE, CallState.DRAINING):
            commands += self._play(now)
        if self.state is CallState.LIVE and (idle_s := self._idle.due_s) is not None and now >= idle_s:
            commands += self.drain(EndReason.IDLE, now)
        return commands + (self._run_out(now) if now >= self._deadline_s else [])

    def drain(self, reason: EndReason, now: float) -> list[Command]:
        """End the call once all that Moshi has said is heard, which takes `DRAIN_WITHIN_S` at most."""
        match self.state:
            case CallState.DRAINING:
                return []
            case CallState.LIVE if self.record.first_sound_s is not None:
                self._move(CallChange.DRAIN)
                self._drained, self._deadline_s = reason, now + DRAIN_WITHIN_S
                return self._finish(now)
            case _:
                return self.end(reason, now)

    def end(self, reason: EndReason, now: float, detail: str = "") -> list[Command]:
        """End the call, whatever its state; once ended it stays so."""
        if self.state is CallState.ENDED:
            return []
        self._move(CallChange.END)
        self.record.on_end(self.stream, reason, detail, now)
        self.record.counts.update(self._jitter_buffer.counts + self._playout.counts)
        self._histograms.length.add(now - self.stream.reserved_s)
        return [End(reason, detail)]

    def _start(self, event: Started, now: float, phase_s: float | None) -> list[Command]:
        if event.call_sid != self.record.call_sid or self._account_sid not in ("", event.account_sid):
            return self.end(EndReason.WRONG_CALL, now, "the start names another call or account than the webhook")
        self._move(CallChange.START)
        self.record.on_started(self.stream, event.stream_sid, now)
        self._deadline_s = now + self._limits.max_call_s
        self._idle.notice(now)
        self._jitter_buffer.start(now, phase_s)
        probe = self._playout.start(now)
        greeting, self._greeting = self._greeting, []
        spoken = [command for frame in greeting for command in self._speak(frame, now)]
        return [*probe, *spoken]

    def _listen(self, frames: list[Pcm], now: float) -> list[Command]:
        first, self._seq = self._seq, self._seq + len(frames)
        self._asked.extend((seq, now) for seq in range(first, self._seq))
        return [SendFrame(seq, pcm) for seq, pcm in enumerate(frames, first)]

    def _fill(self, now: float) -> list[Command]:
        commands = self._listen(self._jitter_buffer.handle_timer(now), now)
        self._filled.extend(command.seq for command in commands if isinstance(command, SendFrame))
        return commands

    def _asked_s(self, seq: int) -> float | None:
        """Return since when the workers had this frame, and forget it and those before it."""
        while self._asked and self._asked[0][0] <= seq:
            number, asked_s = self._asked.popleft()
            if number == seq:
                return asked_s
        return None

    def _speak(self, frame: Frame, now: float) -> list[Command]:
        if frame.pcm is None:
            return []
        ahead, filled = frame.seq < self._limits.greeting_frames, frame.seq in self._filled
        if not ahead:
            self._histograms.lead.add(self.buffered_s(now))
        commands = self._playout.push(frame.seq, self._outbound.push(frame.pcm), now, ahead, filled)
        return [*commands, *self._play(now)]

    def _play(self, now: float) -> list[Command]:
        commands = self._playout.advance(now)
        if commands and not self._has_sounded:
            self._note_first_sound(now)
        for command in commands:
            if isinstance(command, SendAudio):
                self._last_mark = command.mark or self._last_mark
                self._note_delay(command)
        return list(commands)

    def _finish(self, now: float) -> list[Command]:
        """Learn when all that has been said is heard: nothing new is."""
        commands = self._playout.finish(now)
        for command in commands:
            if isinstance(command, SendMark):
                self._last_mark = command.mark
        return [*commands]

    def _note_delay(self, sent: SendAudio) -> None:
        """Take down how long after the caller's frame its answer is heard; a greeting answers nothing."""
        number = sent.seq - self._limits.greeting_frames
        if number >= 0 and (spoken_s := self._jitter_buffer.spoken_s(number)) is not None:
            delay_s = sent.heard_s - spoken_s + FILTERS_S
            self.record.latencies_s.append(delay_s)
            self._histograms.delay.add(delay_s)

    def _note_first_sound(self, now: float) -> None:
        assert self.stream.started_s is not None
        self._has_sounded = True
        if self.stream.started_s == self.record.started_s:
            self.record.first_sound_s = now
        self._histograms.first_sound.add(now - self.stream.started_s)

    def _take_mark(self, name: str, now: float) -> list[Command]:
        self._playout.take_mark(name, now)
        drained = self.state is CallState.DRAINING and self._playout.empty and name == self._last_mark
        return self.end(self._drained, now) if drained else []

    def _take_key(self, digit: str, now: float) -> list[Command]:
        self.record.on_key(now)
        self._idle.notice(now)
        wanted = self._limits.hangup_digit
        return self.end(EndReason.HANGUP_KEY, now) if wanted and digit == wanted else []

    def _run_out(self, now: float) -> list[Command]:
        """End what has lasted too long; a live call ends once all has been heard."""
        match self.state:
            case CallState.RESERVED:
                return self.end(EndReason.NO_SOCKET, now)
            case CallState.CONNECTED:
                return self.end(EndReason.NO_START, now)
            case CallState.DRAINING:
                return self.end(self._drained, now)
            case _:
                return self.drain(EndReason.TIME_LIMIT, now)

    def _move(self, change: CallChange) -> None:
        self.state = NEXT[self.state][change]


def _takeover_s(limits: CallLimits) -> float:
    """When on the caller's clock his first frame begins that Moshi hears.

    The greeting's sound lasts `played_s`; the answer to a frame comes 80 ms and the processing after its beginning and
    should find `LEAD_S` of the greeting still unplayed.
    """
    played_s = max(0, limits.greeting_frames - SILENT_STEPS) * FRAME_S
    return max(0.0, played_s - FRAME_S - limits.processing_s - limits.jitter_s - LEAD_S)
