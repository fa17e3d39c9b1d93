"""One stream of a call while it holds a slot: carries out what its session decides, keeps its timer.

Everything here runs on the event loop and never waits.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.audio.playout import PlayoutCommand
from app.calls.admission import Reservation, Standby, VoiceRequest
from app.calls.end_reason import EndReason
from app.calls.leg import SendFrame
from app.calls.observer import CallLevels, CallObserver, Observers
from app.calls.sentences import SaySentence, SentenceSaid
from app.calls.session import CallSession, Command, End
from app.calls.suspension import GapOver, OpenCall, ResumeCall, Suspended
from app.calls.transcript import Side
from app.calls.transfer import AskTransfer, Transfer, TransferBy, TransferRefusal, TransferRefused
from app.calls.words import CallWords
from app.logging import CallLogger
from app.twilio.events import Event, Started
from workers.messages import Close, Frame, PipelineMessage, Resumed, Said, Say

OUTBOX_COMMANDS = 128
"""What may wait for the socket's writer: ten seconds of frames. A socket that lets more wait is given up."""


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
        self.words = CallWords(self.session, self._observers.notify)
        self.sampling = self.session.conversation.header.call.sampling
        begin(self)
        if not self.over:
            self._observers.notify("on_reserved", self.clock())

    def attach(self, within_s: float, budget_s: float) -> None:
        """Open the call in a pipeline that is ready, or have it go on with it."""
        self._act(lambda now: self.session.attach(now, within_s, budget_s))

    def suspend(self, reason: str, within_s: float) -> None:
        self.words.is_transcribed &= not self.session.has_pipeline
        self._act(lambda now: self.session.suspend(reason, now, within_s))

    def handle_resumed(self, resumed: Resumed) -> None:
        self._act(lambda now: self.session.handle_resumed(resumed, now))

    def on_socket_open(self) -> None:
        """Handle the media socket's opening. Raises KeyError if the call cannot have one now."""
        now = self.clock()
        self.session.on_socket_open(now)
        self._set_timer(now)
        self._observers.notify("on_connected", now)

    def handle_event(self, event: Event) -> None:
        if not self.over:
            self._act(lambda now: self._receive(event, now))

    def handle_frame(self, frame: Frame) -> None:
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
        self._act(lambda now: self.session.handle_said(said, now))

    def handle_moved(self, reason: str) -> None:
        """Moshi speaks from another server now, and remembers nothing of this call."""
        self.log.warning("goes on at another Moshi server, which remembers nothing of it: %s", reason)
        self.session.record.on_moved(reason, self.clock())

    def begin_transfer(self, to: str, by: TransferBy) -> Transfer:
        """The carrier is asked to transfer the call. Raises TransferRefused if it is already."""
        if self.session.is_transferring:
            raise TransferRefused(TransferRefusal.NOT_LIVE, "the call is being transferred")
        self.session.is_transferring = True
        transfer = Transfer(to, by, self.clock(), self._on_transfer_end)
        self.session.record.transfers.append(transfer)
        return transfer

    def on_transferred(self, transfer: Transfer) -> None:
        """The carrier has agreed to transfer the call."""
        self._observers.notify("on_transfer", transfer, self.clock())

    def cancel_transfer(self, transfer: Transfer, reason: str) -> None:
        """The carrier has refused; the call goes on unless its stream has ended meanwhile."""
        self.session.cancel_transfer()
        transfer.end(reason, None, self.clock())

    def end_words(self) -> None:
        """No more words come after the end of the stream."""
        now = self.clock()
        self.words.flush(Side.CALLER, now)
        self._observers.notify("on_words_end", now)

    def handle_timer(self) -> None:
        """Do what is due; a timer that goes off early is only set again."""
        self.timer = None
        self._act(self.session.handle_timer)

    def drain(self, reason: EndReason) -> None:
        self._act(lambda now: self.session.drain(reason, now))

    def end(self, reason: EndReason, detail: str = "") -> None:
        """End the call now; one that is over stays so."""
        self._act(lambda now: self.session.end(reason, now, detail))

    def carry_out(self, commands: Sequence[Command], now: float) -> None:
        """Carry out what the session has decided, and set the timer anew."""
        slot, epoch = self.reservation.slot, self.reservation.epoch
        for command in commands:
            if self.over:
                return
            match command:
                case End():
                    self._finish(command, now)
                case SendFrame(seq, pcm):
                    self.send(Frame(slot, epoch, seq, pcm))
                    self._observers.notify("on_sent", command, now)
                case OpenCall(greeting_frames):
                    self.send(self.session.conversation.open(slot, epoch, greeting_frames, self.checkpoint()))
                case ResumeCall(first, gap, budget_s):
                    frames = [frame.pcm for frame in gap]
                    self.send(self.session.conversation.resume(slot, epoch, first, frames, budget_s))
                case Suspended(_, anew):
                    if anew and self.session.stream.started_s is None:
                        self.words.restart()
                    self._observers.notify("on_suspended", command, now)
                case GapOver(gap):
                    self._observers.notify("on_resumed", gap, now)
                case SaySentence(number, text):
                    self.send(Say(slot, epoch, number, text))
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

    def _receive(self, event: Event, now: float) -> Sequence[Command]:
        commands = self.session.receive(event, now, self.phase_s() if isinstance(event, Started) else None)
        self._observers.notify("on_event", event, now)
        if isinstance(event, Started) and self.session.stream.started_s == now:
            self.words.start(now)
        return commands

    def _handle_frame(self, frame: Frame, now: float) -> Sequence[Command]:
        self._observers.notify("on_frame", frame, now)
        self.words.add_frame(frame, now)
        return self.session.handle_frame(frame, now)

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

    def _on_transfer_end(self, transfer: Transfer) -> None:
        self._observers.notify("on_transfer_end", transfer, self.clock())

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
        self.words.flush(Side.MOSHI, now)
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
