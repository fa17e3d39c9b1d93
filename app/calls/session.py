"""One stream of a call, from the reservation of its slot to its end: events in, commands out, time as an argument.

Theory of operation. A session is RESERVED while the phone rings; Moshi's greeting is computed meanwhile and kept. The
media socket makes it CONNECTED, Twilio's `start` LIVE; anything can make it ENDED. While it is live the caller's
packets become frames for the workers (`JitterBuffer`), and the workers' frames become audio for the caller (`Playout`).
At a limit, or when the service stops, it is DRAINING: what Moshi has said is played to its end.

The greeting is computed ahead and plays for a while in which Moshi does not listen yet. The caller's frames take over
so early that the first answer to them arrives as the greeting's last frame is being played: `_takeover_s`.

`receive`, `handle_frame`, `handle_timer`, `drain` and `end` return commands, which the shell carries out in order;
`get_timer` returns when `handle_timer` is due. After an `End` there are no commands.
"""

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto

from app.audio.jitter_buffer import JitterBuffer
from app.audio.playout import Playout, PlayoutCommand, SendAudio, SendMark
from app.audio.playout_buffer import FIRST_JITTER_S
from app.audio.resample import Decimator
from app.calls.idle import IdleLimit
from app.calls.record import CallRecord, EndReason
from app.twilio.events import CallSid, DtmfPressed, Event, MarkPlayed, Media, Started, Stopped
from workers.messages import FRAME_S, Frame, Pcm

START_WITHIN_S = 10.0
"""How long a socket may stay silent before its `start`."""
DRAIN_WITHIN_S = 3.0
FILLED_KEPT = 16
"""Frames filled with silence that may be on their way through the workers."""
TAKEOVER_MARGIN_S = 0.01
"""What Twilio's buffer should still hold when the first answer to the caller arrives."""
FILTERS_S = 0.0029
"""Delay of the two resampling filters."""
SILENT_STEPS = 1
"""Steps of a greeting that yield no sound: Moshi's acoustic delay."""


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send one frame of the caller's, float32 (1920,), to the workers."""

    seq: int
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class End:
    """Close the socket if there is one, release the slot."""

    reason: EndReason
    detail: str = ""


Command = PlayoutCommand | SendFrame | End


class CallState(Enum):
    """How far a stream has come."""

    RESERVED = auto()
    CONNECTED = auto()
    LIVE = auto()
    DRAINING = auto()
    ENDED = auto()


class Change(Enum):
    """What moves a stream from one state to the next."""

    SOCKET = auto()
    START = auto()
    DRAIN = auto()
    END = auto()


NEXT: dict[CallState, dict[Change, CallState]] = {
    CallState.RESERVED: {Change.SOCKET: CallState.CONNECTED, Change.END: CallState.ENDED},
    CallState.CONNECTED: {Change.START: CallState.LIVE, Change.END: CallState.ENDED},
    CallState.LIVE: {Change.DRAIN: CallState.DRAINING, Change.END: CallState.ENDED},
    CallState.DRAINING: {Change.END: CallState.ENDED},
    CallState.ENDED: {},
}


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Frames of greeting, and limits in seconds: until the socket opens, of a whole call, of the caller's silence.

    `processing_s` is what the workers take for a frame, `jitter_s` by how much that varies. `idle_s` 0 is no limit. The
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
    """The rules of one stream of a call; `now` in seconds, monotonic.

    `account_sid` "" accepts any account. `record` is that of a call which comes back, None for a new one.
    """

    def __init__(
        self,
        call_sid: CallSid,
        account_sid: str,
        limits: CallLimits,
        now: float,
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
        self._jitter_buffer = JitterBuffer(self.record.takeover_s)
        self._decimator = Decimator()
        self._playout = Playout(limits.jitter_s)
        self._idle = IdleLimit(limits.idle_s, now)
        self._drain_reason = EndReason.TIME_LIMIT
        self._greeting: list[Frame] = []
        self._has_sounded = False
        self._last_mark = ""
        self._filled: deque[int] = deque(maxlen=FILLED_KEPT)
        self._seq = limits.greeting_frames
        self._deadline_s = now + limits.socket_within_s

    def on_socket_open(self, now: float) -> None:
        """Handle the opening of the media socket. Raises KeyError if the call cannot have one now."""
        self._move(Change.SOCKET)
        self.record.on_connected(self.stream, now)
        self._deadline_s = now + START_WITHIN_S

    def receive(self, event: Event, now: float, phase_s: float | None = None) -> list[Command]:
        """Handle one of Twilio's events; `phase_s` is a moment at which the frames of other calls become complete."""
        match event:
            case Media():
                return self._handle_packet(event, now) if self.state is CallState.LIVE else []
            case MarkPlayed(name):
                return self._handle_mark(name, now)
            case Started() if self.state is CallState.CONNECTED:
                return self._start(event, now, phase_s)
            case Stopped():
                return self.end(EndReason.CALLER_HUNG_UP, now)
            case DtmfPressed(digit):
                return self._handle_key(digit, now)
        return []

    def handle_frame(self, frame: Frame, now: float) -> list[Command]:
        """Handle one of Moshi's frames."""
        if self.state is CallState.ENDED:
            return []
        self.record.on_frame(frame, now)
        if self.state is CallState.LIVE:
            return self._play_frame(frame, now)
        if self.state is not CallState.DRAINING:
            self._greeting.append(frame)
        return []

    def phase_s(self, now: float) -> float | None:
        """Return when the caller's next frame becomes complete, None while the call is not live."""
        return self._jitter_buffer.complete_s(now) if self.state is CallState.LIVE else None

    def buffered_s(self, now: float) -> float:
        """Return how much of Moshi's audio is still to be played, here and in Twilio's buffer."""
        return max(0.0, self._playout.buffered_s(now))

    def position(self, timestamp_ms: int) -> int | None:
        """Return where on the caller's clock a packet begins, in samples; None while there is no stream."""
        playing = self.state in (CallState.LIVE, CallState.DRAINING)
        return self._jitter_buffer.position(timestamp_ms) if playing else None

    def is_answer(self, seq: int) -> bool:
        """Tell whether the frame of this step is played to the caller and answers one of theirs."""
        return self.state is CallState.LIVE and seq >= self._limits.greeting_frames

    def mouth_to_ear_s(self, sent: SendAudio) -> float | None:
        """Return how long after the caller's frame its answer is heard; None for a greeting, which answers nothing."""
        number = sent.seq - self._limits.greeting_frames
        spoken_s = self._jitter_buffer.spoken_s(number) if number >= 0 else None
        return None if spoken_s is None else sent.heard_s - spoken_s + FILTERS_S

    @property
    def counts(self) -> Counter[str]:
        """What this stream has counted so far, by name; the record has that of all streams that have ended."""
        counted = self.record.counts - self._counted_before
        ended = self.state is CallState.ENDED
        return counted if ended else counted + self._jitter_buffer.counts + self._playout.counts

    @property
    def round_trip_s(self) -> float | None:
        """The line's round trip, None until it is known; audio sent before is heard later by that than it says."""
        return self._playout.buffer.known_round_trip_s

    def get_timer(self) -> float:
        """Return when `handle_timer` is due."""
        due_s = min(self._deadline_s, self._playout.get_timer())
        if self.state is CallState.LIVE:
            due_s = min(due_s, self._jitter_buffer.get_timer(), self._idle.due_s)
        return due_s

    def handle_timer(self, now: float) -> list[Command]:
        """Fill a frame that is late, send audio that has waited, end what has lasted too long."""
        commands: list[Command] = []
        if self.state is CallState.LIVE:
            commands += self._fill(now)
        if self.state in (CallState.LIVE, CallState.DRAINING):
            commands += self._send_audio(now)
        if self.state is CallState.LIVE and now >= self._idle.due_s:
            commands += self.drain(EndReason.IDLE, now)
        return commands + (self._end_late(now) if now >= self._deadline_s else [])

    def drain(self, reason: EndReason, now: float) -> list[Command]:
        """End the call once all that Moshi has said has been played, within `DRAIN_WITHIN_S`."""
        match self.state:
            case CallState.DRAINING:
                return []
            case CallState.LIVE if self.record.first_sound_s is not None:
                self._move(Change.DRAIN)
                self._drain_reason, self._deadline_s = reason, now + DRAIN_WITHIN_S
                return self._mark_last(self._playout.finish(now))
            case _:
                return self.end(reason, now)

    def end(self, reason: EndReason, now: float, detail: str = "") -> list[Command]:
        """End the call, whatever its state; once ended it stays so."""
        if self.state is CallState.ENDED:
            return []
        self._move(Change.END)
        self.record.on_end(self.stream, reason, detail, now)
        self.record.counts.update(self._jitter_buffer.counts + self._playout.counts)
        return [End(reason, detail)]

    def _start(self, event: Started, now: float, phase_s: float | None) -> list[Command]:
        if event.call_sid != self.record.call_sid or self._account_sid not in ("", event.account_sid):
            return self.end(EndReason.WRONG_CALL, now, "the start names another call or account than the webhook")
        self._move(Change.START)
        self.record.on_started(self.stream, event.stream_sid, now)
        self._deadline_s = now + self._limits.max_call_s
        self._idle.reset(now)
        self._jitter_buffer.start(now, phase_s)
        commands: list[Command] = [*self._playout.start(now)]
        for frame in self._greeting:
            commands += self._play_frame(frame, now)
        self._greeting.clear()
        return commands

    def _handle_packet(self, packet: Media, now: float) -> list[Command]:
        self.record.counts["packets_in"] += 1
        self._idle.add(packet.payload, now)
        frames = self._jitter_buffer.push(packet.timestamp_ms, packet.payload, now)
        if not frames:
            return []
        self.record.takeover_s = self._jitter_buffer.start_s
        return [*self._number(frames)]

    def _number(self, frames: list[Pcm]) -> list[SendFrame]:
        first, self._seq = self._seq, self._seq + len(frames)
        return [SendFrame(seq, pcm) for seq, pcm in enumerate(frames, first)]

    def _fill(self, now: float) -> list[SendFrame]:
        commands = self._number(self._jitter_buffer.handle_timer(now))
        self._filled.extend(command.seq for command in commands)
        return commands

    def _play_frame(self, frame: Frame, now: float) -> list[Command]:
        if frame.pcm is None:
            return []
        ahead, filled = frame.seq < self._limits.greeting_frames, frame.seq in self._filled
        commands = self._playout.push(frame.seq, self._decimator.push_int16(frame.pcm), now, ahead, filled)
        return [*commands, *self._send_audio(now)]

    def _send_audio(self, now: float) -> list[Command]:
        commands = self._playout.advance(now)
        for command in commands:
            if isinstance(command, SendAudio):
                self._on_first_sound(now)
                if (latency_s := self.mouth_to_ear_s(command)) is not None:
                    self.record.latencies_s.append(latency_s)
        return self._mark_last(commands)

    def _mark_last(self, commands: list[PlayoutCommand]) -> list[Command]:
        """Remember the mark behind all that has been sent."""
        for command in commands:
            if isinstance(command, SendAudio | SendMark):
                self._last_mark = command.mark or self._last_mark
        return [*commands]

    def _on_first_sound(self, now: float) -> None:
        if not self._has_sounded and self.stream.started_s == self.record.started_s:
            self.record.first_sound_s = now
        self._has_sounded = True

    def _handle_mark(self, name: str, now: float) -> list[Command]:
        self._playout.handle_mark(name, now)
        drained = self.state is CallState.DRAINING and self._playout.empty and name == self._last_mark
        return self.end(self._drain_reason, now) if drained else []

    def _handle_key(self, digit: str, now: float) -> list[Command]:
        self.record.on_key(now)
        self._idle.reset(now)
        return self.end(EndReason.HANGUP_KEY, now) if digit == self._limits.hangup_digit else []

    def _end_late(self, now: float) -> list[Command]:
        """End what has lasted too long; a live call ends once all has been played."""
        match self.state:
            case CallState.RESERVED:
                return self.end(EndReason.NO_SOCKET, now)
            case CallState.CONNECTED:
                return self.end(EndReason.NO_START, now)
            case CallState.DRAINING:
                return self.end(self._drain_reason, now)
            case _:
                return self.drain(EndReason.TIME_LIMIT, now)

    def _move(self, change: Change) -> None:
        self.state = NEXT[self.state][change]


def _takeover_s(limits: CallLimits) -> float:
    """Return when on the caller's clock the first frame begins that Moshi listens to.

    The greeting's sound lasts `played_s`; the answer to a frame comes 80 ms and the processing after its beginning and
    should find `TAKEOVER_MARGIN_S` of the greeting still unplayed.
    """
    played_s = max(0, limits.greeting_frames - SILENT_STEPS) * FRAME_S
    return max(0.0, played_s - FRAME_S - limits.processing_s - limits.jitter_s - TAKEOVER_MARGIN_S)
