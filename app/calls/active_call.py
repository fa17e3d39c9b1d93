"""One stream of a call while it holds a slot: carries out what its session decides, keeps its timer.

Everything here runs on the event loop and never waits.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np

from app.audio.playout import PlayoutCommand
from app.calls.admission import Reservation
from app.calls.conversation import to_int16
from app.calls.leg import SendFrame
from app.calls.observer import CallLevels, CallObserver, Observers
from app.calls.record import EndReason
from app.calls.sentences import SaySentence, SentenceSaid
from app.calls.session import AskTransfer, CallSession, Command, End
from app.calls.suspension import GapOver, OpenCall, ResumeCall, Suspended
from app.calls.transcript import Side, Word
from app.calls.transfer import Transfer
from app.calls.words import Known, StreamWords
from app.logging import CallLogger
from app.twilio.events import Event, Started
from workers.messages import (
    Close,
    Frame,
    Heard,
    Open,
    PipelineMessage,
    Resume,
    Resumed,
    Said,
    Say,
    TranscriptEnd,
    TranscriptMessage,
    TurnOver,
)

OUTBOX_COMMANDS = 128
"""What may wait for the socket's writer: ten seconds of frames. A socket that lets more wait is given up."""


@dataclass(frozen=True, slots=True)
class VoiceRequest:
    """What a voice webhook says of a call, and asks for.

    `greeting_frames` may shorten the greeting of the settings: the workers hold no more silence ready. `record` asks
    for a recording, `persona` for that one, "" for the one of the number called, `prompt` for the one-time prompt with
    this id. `webhook_token` is the webhook's I-Twilio-Idempotency-Token. A `chat` brings its own `sampling` and `seed`,
    which go before those of the persona and of the settings; its audio is PCM or `opus`.
    """

    greeting_frames: int | None = None
    caller: str = ""
    called: str = ""
    direction: str = ""
    persona: str = ""
    record: bool = False
    webhook_token: str = ""
    prompt: str = ""
    chat: bool = False
    opus: bool = False
    sampling: tuple[tuple[str, float], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Standby:
    """The token of a stream that Twilio may open in place of the one that is on; it holds no slot of its own."""

    token: str
    expires_s: float
    request: VoiceRequest


@dataclass(frozen=True, slots=True)
class QueuedSentence:
    """A sentence that Moshi is to say; `said` becomes whether it was said whole, None if the stream ends before."""

    number: int
    said: asyncio.Future[bool | None]


@dataclass(eq=False, kw_only=True)
class ActiveCall:
    """A session and what it acts on.

    `send` passes a message to the workers; `checkpoint` returns the digest of what they have loaded; `phase_s` returns
    when the frames of other calls become complete; `release` is called once, when the stream has ended; `clock` returns
    seconds, monotonic.
    """

    session: CallSession
    reservation: Reservation
    request: VoiceRequest
    log: CallLogger
    send: Callable[[PipelineMessage], None]
    checkpoint: Callable[[], str]
    phase_s: Callable[[], float | None]
    release: Callable[["ActiveCall", End], None]
    clock: Callable[[], float]
    transfer_to: str = ""
    """Whom the persona has its calls transferred to, "" for TRANSFER_TO."""
    on_transfer_key: Callable[["ActiveCall"], None] = lambda _: None
    levels: CallLevels = field(default_factory=CallLevels)
    words: StreamWords = field(default_factory=StreamWords)
    outbox: asyncio.Queue[PlayoutCommand | None] = field(default_factory=lambda: asyncio.Queue(OUTBOX_COMMANDS))
    """What waits for the socket's writer; None: the call is over, close the socket."""
    sounds: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once Moshi's first sound has come from the workers, or the call is over."""
    over: bool = False
    sampling: tuple[tuple[str, float], ...] = ()
    """What replaces the settings' in this call, by name."""
    standby: Standby | None = None
    timer: asyncio.TimerHandle | None = None
    _timer_s: float = 0.0
    _unsaid: dict[int, asyncio.Future[bool | None]] = field(default_factory=dict)

    def start(self, factories: "Sequence[ObserverFactory]", begin: Callable[["ActiveCall"], None]) -> None:
        """Start what watches the call, then the call itself: `begin` attaches or suspends it."""
        observers = [observer for factory in factories if (observer := self._make(factory))]
        self._observers = Observers(self.log, [self.levels, *observers])
        self.sampling = self.session.conversation.header.call.sampling
        begin(self)
        if not self.over:
            self._observers.notify("on_reserved", self.clock())

    def attach(self, within_s: float, budget_s: float) -> None:
        """Open the call in a pipeline that is ready, or have it go on with it."""
        self._act(lambda now: self.session.attach(now, within_s, budget_s))

    def suspend(self, reason: str, within_s: float) -> None:
        """The pipeline is lost; wait for the next one."""
        self._act(lambda now: self.session.suspend(reason, now, within_s))

    def handle_resumed(self, resumed: Resumed) -> None:
        """The pipeline goes on with the call."""
        self._act(lambda now: self.session.handle_resumed(resumed, now))

    def on_socket_open(self) -> None:
        """Handle the media socket's opening. Raises KeyError if the call cannot have one now."""
        now = self.clock()
        self.session.on_socket_open(now)
        self._set_timer(now)
        self._observers.notify("on_connected", now)

    def handle_event(self, event: Event) -> None:
        """Handle one of Twilio's events."""
        if not self.over:
            self._act(lambda now: self._receive(event, now))

    def handle_frame(self, frame: Frame) -> None:
        """Handle one of Moshi's frames."""
        frame = self.session.muted(frame)
        if frame.pcm is not None:
            self.sounds.set()
        self._act(lambda now: self._handle_frame(frame, now))

    def say(self, text: str) -> "QueuedSentence":
        """Have Moshi say a text after those that are queued. Raises SayRefused."""
        sentence = self.session.say(text)
        said = self._unsaid[sentence.number] = asyncio.get_running_loop().create_future()
        self._act(lambda now: [sentence])
        return QueuedSentence(sentence.number, said)

    def handle_said(self, said: Said) -> None:
        """Handle the end of a sentence."""
        self._act(lambda now: self.session.handle_said(said, now))

    def handle_moved(self, reason: str) -> None:
        """Moshi speaks from another server now, and remembers nothing of this call."""
        self.log.warning("goes on at another Moshi server, which remembers nothing of it: %s", reason)
        self.session.record.on_moved(reason, self.clock())

    def on_transferred(self, transfer: Transfer) -> None:
        """The carrier has agreed to transfer the call."""
        self._observers.notify("on_transfer", transfer, self.clock())

    def handle_transcript(self, message: TranscriptMessage) -> None:
        """Handle what the transcriber tells, also after the end. Touches nothing but the words."""
        match message:
            case Heard():
                self._pass_on(self.words.add_heard(self._word(message)))
            case TurnOver():
                self._pass_on(self.words.end_turn())
            case TranscriptEnd(_, _, missed):
                self.session.record.counts["frames_unheard"] += missed
                self._pass_on(self.words.flush(Side.CALLER))
            case _:
                assert_never(message)

    def end_words(self) -> None:
        """No more words come after the end of the stream."""
        self._pass_on(self.words.flush(Side.CALLER))
        self._observers.notify("on_words_end", self.clock())

    def handle_timer(self) -> None:
        """Do what is due; a timer that goes off early is only set again."""
        self.timer = None
        self._act(self.session.handle_timer)

    def drain(self, reason: EndReason) -> None:
        """End the call once what Moshi has said has been played."""
        self._act(lambda now: self.session.drain(reason, now))

    def end(self, reason: EndReason, detail: str = "") -> None:
        """End the call now; one that is over stays so."""
        self._act(lambda now: self.session.end(reason, now, detail))

    def carry_out(self, commands: Sequence[Command], now: float) -> None:
        """Carry out what the session has decided, and set the timer anew."""
        for command in commands:
            if self.over:
                return
            match command:
                case End():
                    self._finish(command, now)
                case SendFrame(seq, pcm):
                    self.send(Frame(self.reservation.slot, self.reservation.epoch, seq, pcm))
                    self._observers.notify("on_sent", command, now)
                case OpenCall(greeting_frames):
                    self._open(greeting_frames)
                case ResumeCall():
                    self._resume(command)
                case Suspended(_, anew):
                    if anew and self.session.stream.started_s is None:
                        self.words = StreamWords()
                    self._observers.notify("on_suspended", command, now)
                case GapOver(gap):
                    self._observers.notify("on_resumed", gap, now)
                case SaySentence(number, text):
                    self.send(Say(self.reservation.slot, self.reservation.epoch, number, text))
                case SentenceSaid(number, _, whole):
                    self._observers.notify("on_said", command, now)
                    self._answer(number, whole)
                case AskTransfer():
                    self.on_transfer_key(self)
                case _ if self.outbox.full():
                    self.end(EndReason.SOCKET_BLOCKED)
                case _:
                    self.outbox.put_nowait(command)
                    self._observers.notify("on_sent", command, now)
        self._set_timer(now)

    def _act(self, decide: Callable[[float], Sequence[Command]]) -> None:
        """Carry out what the session decides. An error of ours ends this call and no other."""
        now = self.clock()
        try:
            self.carry_out(decide(now), now)
        except Exception as error:
            self._fail(error)

    def _open(self, greeting_frames: int) -> None:
        conversation, held = self.session.conversation, self.reservation
        header = conversation.header = replace(conversation.header, checkpoint=self.checkpoint())
        self.send(Open(held.slot, held.epoch, greeting_frames, seed=header.seed, persona=header.call))

    def _resume(self, command: ResumeCall) -> None:
        conversation, held = self.session.conversation, self.reservation
        resume = Resume(
            held.slot,
            held.epoch,
            bytes(conversation.log),
            command.seq,
            command.budget_s,
            skipped=conversation.skipped,
            seed=conversation.header.seed,
            persona=conversation.header.call,
            checkpoint=conversation.header.checkpoint,
            heard=conversation.heard,
            gap=np.stack([to_int16(frame.pcm) for frame in command.gap]) if command.gap else None,
        )
        self.send(resume)

    def _receive(self, event: Event, now: float) -> Sequence[Command]:
        commands = self.session.receive(event, now, self.phase_s() if isinstance(event, Started) else None)
        self._observers.notify("on_event", event, now)
        if isinstance(event, Started) and self.session.stream.started_s == now:
            self._pass_on(self.words.start(self.session.record.greeting_frames, self._at_s(now)))
        return commands

    def _handle_frame(self, frame: Frame, now: float) -> Sequence[Command]:
        self._observers.notify("on_frame", frame, now)
        self._pass_on(self.words.add_frame(frame.seq, frame.text, self._at_s(now)))
        return self.session.handle_frame(frame, now)

    def _word(self, heard: Heard) -> Word:
        begin_s = self.session.leg.spoken_s(heard.start_s)
        at_s = self._at_s(self.clock() if begin_s is None else begin_s)
        return Word(Side.CALLER, heard.word, at_s, at_s + heard.stop_s - heard.start_s)

    def _at_s(self, moment_s: float) -> float:
        return max(0.0, moment_s - self.session.record.reserved_s)

    def _pass_on(self, known: Iterable[Known]) -> None:
        for one in known:
            if isinstance(one, Word):
                self.session.record.words.append(one)
            self._observers.notify("on_word" if isinstance(one, Word) else "on_turn", one, self.clock())

    def _set_timer(self, now: float) -> None:
        """Have the timer go off in time; one that is early enough stays, since most move later with each frame."""
        if self.over:
            return
        due_s = self.session.get_timer()
        if self.timer:
            if self._timer_s <= due_s:
                return
            self.timer.cancel()
        self._timer_s = due_s
        self.timer = asyncio.get_running_loop().call_later(due_s - now, self.handle_timer)

    def _answer(self, number: int, whole: bool | None) -> None:
        said = self._unsaid.pop(number, None)
        if said and not said.done():
            said.set_result(whole)

    def _finish(self, end: End, now: float) -> None:
        self.over = True
        self.sounds.set()
        for number in [*self._unsaid]:
            self._answer(number, None)
        if self.timer:
            self.timer.cancel()
        while not self.outbox.empty():  # after the end of a call nobody hears it
            self.outbox.get_nowait()
        self.outbox.put_nowait(None)
        try:
            self.send(Close(self.reservation.slot, self.reservation.epoch))
        except Exception:
            self.log.exception("internal error")
        self._pass_on(self.words.flush(Side.MOSHI))
        self._observers.notify("on_end", end, now)
        self.release(self, end)

    def _fail(self, error: Exception) -> None:
        """End a call in which something of ours went wrong, whatever state that has left it in."""
        self.log.error("internal error, this call ends", exc_info=error)
        now, end = self.clock(), End(EndReason.INTERNAL, type(error).__name__)
        try:
            self.session.end(end.reason, now, end.detail)
        except Exception:
            self.log.exception("internal error")
        if self.session.stream.end is None:
            self.session.record.on_end(self.session.stream, end.reason, end.detail, now)
        if not self.over:
            self._finish(end, now)

    def _make(self, factory: "ObserverFactory") -> CallObserver | None:
        try:
            return factory(self)
        except Exception:
            self.log.exception("an observer of this call is missing")
            return None


ObserverFactory = Callable[[ActiveCall], CallObserver | None]
"""Makes the observer of one stream; None if it is not to be observed."""
