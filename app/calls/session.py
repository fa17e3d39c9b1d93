"""One stream of a call, from the reservation of its slot to its end: events in, commands out, time as an argument.

Theory of operation. A session is RESERVED while the phone rings; Moshi's greeting is computed meanwhile and kept. The
media socket makes it CONNECTED, Twilio's `start` LIVE; anything can make it ENDED. While it is live its `Leg` turns the
caller's packets into frames for the workers, and the workers' frames into audio for the caller. At a limit, or when the
service stops, it is DRAINING: what Moshi has said is played to its end.

The greeting is computed ahead and plays for a while in which Moshi does not listen yet. The caller's frames take over
so early that the first answer to them arrives as the greeting's last frame is being played: `CallLimits.takeover_s`.

A pipeline that is lost does not end the call. While it is suspended the last frames of the caller are kept
(`UnreadFrames`) and they hear nothing. `attach` opens the call in the next pipeline: from its token log if it was live
or comes back from an earlier stream, else anew. From then on the caller's frames are sent as they come. With `Resumed`
it goes on; the answers to what was said before would come too late and are not heard, until Moshi has caught up. A call
that is draining needs no pipeline.

`receive`, `handle_frame`, `handle_said`, `handle_resumed`, `handle_timer`, `say`, `suspend`, `attach`, `drain` and
`end` return commands, which the shell carries out in order; `get_timer` returns when `handle_timer` is due. After an
`End` there are no commands.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.end_reason import LINE_ENDS, EndReason
from app.calls.leg import Leg, PhoneLeg, SendFrame
from app.calls.limits import CallLimits, IdleLimit
from app.calls.record import CallRecord
from app.calls.sentences import SayRefusal, SayRefused, SaySentence, Sentences, SentenceSaid
from app.calls.suspension import GapOver, OpenCall, ResumeCall, Suspended, Suspension
from app.calls.transfer import MOST_TRANSFERS, AskTransfer
from app.twilio.events import CallSid, DtmfPressed, Event, MarkPlayed, Media, Started, Stopped
from workers.messages import GREETING, Frame, Resumed, Said

START_WITHIN_S = 10.0
"""How long a socket may stay silent before its `start`."""
DRAIN_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class End:
    """Close the socket if there is one, release the slot."""

    reason: EndReason
    detail: str = ""


OfPipeline = OpenCall | ResumeCall | Suspended | GapOver
Command = PlayoutCommand | SendFrame | SaySentence | SentenceSaid | AskTransfer | End | OfPipeline


class CallState(Enum):
    RESERVED = auto()
    CONNECTED = auto()
    LIVE = auto()
    DRAINING = auto()
    ENDED = auto()


NEXT = {
    CallState.RESERVED: {CallState.CONNECTED, CallState.ENDED},
    CallState.CONNECTED: {CallState.LIVE, CallState.ENDED},
    CallState.LIVE: {CallState.DRAINING, CallState.ENDED},
    CallState.DRAINING: {CallState.ENDED},
    CallState.ENDED: set[CallState](),
}


class CallSession:
    """The rules of one stream of a call; `now` in seconds, monotonic.

    `account_sid` "" accepts any account. `record` is that of a call which comes back, None for a new one. Without
    a `leg` its audio is that of a phone. If `comes_back`, Moshi goes on with the `conversation` of an earlier stream.
    """

    def __init__(
        self,
        call_sid: CallSid,
        account_sid: str,
        limits: CallLimits,
        now: float,
        record: CallRecord | None = None,
        webhook_token: str = "",
        leg: Leg | None = None,
        conversation: Conversation | None = None,
        comes_back: bool = False,
    ) -> None:
        self.record = record or CallRecord(call_sid, now)
        self.record.greeting_frames, self.record.takeover_s = limits.greeting_frames, limits.takeover_s
        self.stream = self.record.open_stream(now, webhook_token)
        self.state = CallState.RESERVED
        self.leg = leg or PhoneLeg(limits)
        self.sentences = Sentences(self.record)
        self.is_transferring = False
        """Whether the carrier is asked to transfer the call: its stream ends soon."""
        self.conversation = conversation or Conversation(ConversationHeader())
        self.comes_back = comes_back
        self._suspension = Suspension(self.record, limits.greeting_frames, comes_back)
        self._counted_before = Counter(self.record.counts)
        self._account_sid = account_sid
        self._limits = limits
        self._idle = IdleLimit(limits.idle_s, now)
        self._greeting: list[Frame] = []
        self._has_sounded = False
        self._deadline_s, self._late_reason = now + limits.socket_within_s, EndReason.NO_SOCKET
        self._untransferred: EndReason | None = None

    @property
    def counts(self) -> Counter[str]:
        """What this stream has counted so far, by name; the record has that of all streams that have ended."""
        counted = self.record.counts - self._counted_before
        return counted if self.state is CallState.ENDED else counted + self.leg.counts

    @property
    def suspended_since_s(self) -> float | None:
        """Since when the call waits for a pipeline that goes on with it; None while it has one."""
        return self._suspension.since_s

    @property
    def has_pipeline(self) -> bool:
        return self._suspension.is_open

    def phase_s(self, now: float) -> float | None:
        """Return when the caller's next frame becomes complete, None while the call is not live."""
        return self.leg.complete_s(now) if self.state is CallState.LIVE else None

    def on_socket_open(self, now: float) -> None:
        """Handle the opening of the media socket. Raises KeyError if the call cannot have one now."""
        self._move(CallState.CONNECTED)
        self.record.on_connected(self.stream, now)
        self._deadline_s, self._late_reason = now + START_WITHIN_S, EndReason.NO_START

    def receive(self, event: Event, now: float, phase_s: float | None = None) -> Sequence[Command]:
        """Handle one of Twilio's events; `phase_s` is a moment at which the frames of other calls become complete."""
        match event:
            case Media(_, payload) if self.state is CallState.LIVE:
                self.record.counts["packets_in"] += 1
                self._idle.add(payload, now)
                if frames := self.leg.push(event, now):
                    self.record.takeover_s = self.leg.start_s
                return self._suspension.unread.add(frames)
            case MarkPlayed(name):
                played = self.leg.handle_mark(name, now) and self.state is CallState.DRAINING
                return self.end(self._late_reason, now) if played else []
            case Started() if self.state is CallState.CONNECTED:
                return self._start(event, now, phase_s)
            case Stopped():
                return self.end(EndReason.CALLER_HUNG_UP, now)
            case DtmfPressed(digit):
                return self._on_key(digit, now)
        return []

    def muted(self, frame: Frame) -> Frame:
        """Return a frame as it is; without sound and times if it answers what the caller said in a gap."""
        return replace(frame, pcm=None, spans=()) if self._suspension.unread.is_late(frame.seq) else frame

    def handle_frame(self, frame: Frame, now: float) -> Sequence[Command]:
        if self.state is CallState.ENDED:
            return []
        for read in self._suspension.unread.read(frame.seq):
            self.conversation.add_heard(read.pcm)
        self.conversation.add_step(frame.tokens)
        self.record.on_frame(frame, now)
        if self.state is CallState.LIVE:
            return self._on_sent(self.leg.play(frame, now), now)
        if self.state is not CallState.DRAINING:
            self._greeting.append(frame)
        return []

    def say(self, text: str) -> SaySentence:
        """Return the command that has Moshi say a text after those that are queued. Raises SayRefused."""
        if self.state is not CallState.LIVE:
            raise SayRefused(SayRefusal.OVER if self.state is CallState.ENDED else SayRefusal.NOT_LIVE)
        if self.suspended_since_s is not None:
            raise SayRefused(SayRefusal.IN_GAP)
        return self.sentences.add(text)

    def handle_said(self, said: Said, now: float) -> Sequence[Command]:
        """Handle the end of a sentence, or of the greeting; what is said while the call ends is not heard."""
        if said.sentence == GREETING:
            self._idle.reset(now)
        is_heard = self.state not in (CallState.DRAINING, CallState.ENDED)
        sentence = self.sentences.end(said.sentence, said.whole, now) if is_heard else None
        return [sentence] if sentence else []

    def suspend(self, reason: str, now: float, within_s: float) -> Sequence[Command]:
        """The pipeline is lost: wait for the next one, `within_s` seconds at most, 0 for not at all."""
        if self.state in (CallState.DRAINING, CallState.ENDED):
            return []
        if not within_s:
            return self.end(EndReason.WORKER_LOST, now, reason)
        self._suspension.begin(reason, now, within_s, self.state is CallState.LIVE)
        if self._suspension.goes_on:
            cut = self.sentences.cut(now, greets=bool(self.conversation.header.call.greeting))
            return [*cut, Suspended(reason, anew=False)]
        self._greeting.clear()  # Moshi will begin anew with a call that has not heard anything yet
        self.conversation = Conversation(self.conversation.header)
        return [*self.sentences.cut(now), Suspended(reason, anew=True)]

    def attach(self, now: float, within_s: float, budget_s: float) -> Sequence[Command]:
        """A pipeline is ready: open the call in it, or have it go on with it, within `budget_s` of its time.

        A call that comes back is given `within_s` seconds, one that is suspended has its time already.
        """
        if self.state in (CallState.DRAINING, CallState.ENDED):
            return []
        is_early = self.state in (CallState.RESERVED, CallState.CONNECTED)
        greeting_frames = self._limits.greeting_frames if is_early else 0
        return [self._suspension.attach(now, within_s, budget_s, greeting_frames)]

    def handle_resumed(self, resumed: Resumed, now: float) -> Sequence[Command]:
        """The pipeline goes on with the call."""
        if self.suspended_since_s is None or self.state is CallState.ENDED:
            return []
        self._suspension.handle_resumed(resumed)
        self._idle.reset(now)
        self.leg.on_gap_over()
        self._suspension.unread.go_live()
        return self._suspension.end_gap(now) if self.state is CallState.LIVE else []

    def get_timer(self) -> float:
        due_s = min(self._deadline_s, self._suspension.until_s, self.leg.audio_due_s())
        if self.state is CallState.LIVE:
            due_s = min(due_s, self.leg.frame_due_s(), self._idle.due_s)
        if self.state is CallState.DRAINING:
            due_s = min(due_s, self.leg.played_s())
        return due_s

    def handle_timer(self, now: float) -> Sequence[Command]:
        """Fill a frame that is late, send audio that has waited, end what has lasted too long."""
        commands: list[Command] = []
        if self.state is CallState.LIVE:
            commands += self._suspension.unread.add(self.leg.fill(now))
        if self.state in (CallState.LIVE, CallState.DRAINING):
            commands += self._on_sent(self.leg.send_audio(now), now)
        if self.state is CallState.DRAINING and now >= self.leg.played_s():
            return [*commands, *self.end(self._late_reason, now)]
        if self._greets:
            self._idle.reset(now)
        if self.state is CallState.LIVE and now >= self._idle.due_s:
            commands += self.drain(EndReason.IDLE, now)
        if now >= self._suspension.until_s:
            return [*commands, *self.end(EndReason.WORKER_LOST, now, f"{self._suspension.loss}; not resumed in time")]
        if now >= self._deadline_s:
            end = self.end if self.state is CallState.DRAINING else self.drain
            commands += end(self._late_reason, now)
        return commands

    def drain(self, reason: EndReason, now: float) -> Sequence[Command]:
        """End the call once all that Moshi has said has been played, within `DRAIN_WITHIN_S`."""
        if self.state is CallState.DRAINING:
            return []
        is_silent = self.record.first_sound_s is None and not self._has_sounded
        if self.state is not CallState.LIVE or is_silent:
            return self.end(reason, now)
        self._move(CallState.DRAINING)
        self._suspension.end()
        self._deadline_s, self._late_reason = now + DRAIN_WITHIN_S, reason
        return self.leg.finish(now)

    def end(self, reason: EndReason, now: float, detail: str = "") -> Sequence[Command]:
        """End the call, whatever its state; once ended it stays so.

        A call that drains ends for the reason of that, also if its line ends first: no other stream goes on with it.
        """
        if self.state is CallState.ENDED:
            return []
        may_be_transferred = self.is_transferring and reason in (EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST)
        if self.state is CallState.DRAINING and reason in LINE_ENDS:
            reason = self._late_reason
        if may_be_transferred:
            self._untransferred, reason = reason, EndReason.TRANSFERRED
        self._move(CallState.ENDED)
        self.record.on_end(self.stream, reason, detail, now)
        self.record.counts.update(self.leg.counts)
        return [End(reason, detail)]

    @property
    def _greets(self) -> bool:
        """Whether Moshi says the words of its greeting and does not hear the caller, whose silence means nothing."""
        persona, is_said = self.conversation.header.call, self.record.greeting_said_s is not None
        return bool(persona.greeting and self._limits.greeting_frames) and not persona.listens and not is_said

    def cancel_transfer(self) -> None:
        """The carrier has refused; a stream that has ended meanwhile has ended for its own reason."""
        self.is_transferring = False
        if self._untransferred:
            self.record.correct_end(self.stream, self._untransferred)

    def _start(self, event: Started, now: float, phase_s: float | None) -> Sequence[Command]:
        if event.call_sid != self.record.call_sid or self._account_sid not in ("", event.account_sid):
            return self.end(EndReason.WRONG_CALL, now, "the start names another call or account than the webhook")
        self._move(CallState.LIVE)
        self.record.on_started(self.stream, event.stream_sid, now)
        began_s = (self.record.started_s or now) - self.record.elsewhere_s
        self._deadline_s, self._late_reason = began_s + self._limits.max_call_s, EndReason.TIME_LIMIT
        self._idle.reset(now)
        commands = self.leg.start(now, phase_s)
        for frame in self._greeting:
            commands += self.leg.play(frame, now)
        self._greeting.clear()
        return [*self._on_sent(commands, now), *self._suspension.end_gap(now)]

    def _on_key(self, digit: str, now: float) -> Sequence[Command]:
        self.record.on_key(now)
        self._idle.reset(now)
        if digit == self._limits.hangup_digit:
            return self.end(EndReason.HANGUP_KEY, now)
        may_ask = not self.is_transferring and len(self.record.transfers) < MOST_TRANSFERS
        return [AskTransfer()] if digit == self._limits.transfer_digit and may_ask else []

    def _on_sent(self, commands: Sequence[PlayoutCommand], now: float) -> Sequence[Command]:
        for command in commands:
            if isinstance(command, SendAudio):
                if not self._has_sounded and self.stream.started_s == self.record.started_s:
                    self.record.first_sound_s = now
                self._has_sounded = True
                if (latency_s := self.leg.mouth_to_ear_s(command)) is not None:
                    self.record.latencies_s.append(latency_s)
        return commands

    def _move(self, state: CallState) -> None:
        if state not in NEXT[self.state]:
            raise KeyError(f"from {self.state.name} to {state.name}")
        self.state = state
