"""Who holds which slot, and which stream a call goes on in."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.admission import TTL_S, Admission, Reservation, Standby, VoiceRequest, new_token
from app.calls.conversation import Conversation
from app.calls.conversation_store import ConversationStore
from app.calls.end_reason import LINE_ENDS, LOST_ENDS, EndReason
from app.calls.events import EventPublisher, Events
from app.calls.last_words import LastWords
from app.calls.observer import LogLines
from app.calls.personas import Chosen, choose_nobody
from app.calls.registry import CallRegistry
from app.calls.resumption import Resumption
from app.calls.session import CallState, End
from app.calls.session_factory import SessionFactory
from app.calls.speech_backend import BackendMessage, Moved
from app.calls.statistics import StreamStatistics
from app.config import Settings
from app.logging import CallLogger
from app.twilio.events import CallSid
from workers.messages import Failed, Frame, Message, PreparePrompt, Resumed, Said, TranscriptEnd, TranscriptMessage

log = logging.getLogger(__name__)

NO_REQUEST = VoiceRequest()
ON = (CallState.CONNECTED, CallState.LIVE)


class CallManager(CallRegistry):
    """All calls of this machine.

    `send` passes a message to the workers, `workers_ready` tells whether they are warm; `observers` make what watches a
    stream, besides events, statistics and log lines; `choose` returns who speaks, by the name that a call asks for, the
    number called and the id of a one-time prompt; `former_prompt` returns the prompt with a key of which the workers
    would not be told again; `checkpoint` returns the digest of what they have loaded. `clock` returns seconds,
    monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        send: Callable[[Message], None],
        workers_ready: Callable[[], bool],
        observers: Sequence[ObserverFactory] = (),
        choose: Callable[[str, str, str], Chosen] = choose_nobody,
        *,
        former_prompt: Callable[[str], PreparePrompt | None] = lambda key: None,
        checkpoint: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,  # the loop's own time is rounded to milliseconds by uvloop
    ) -> None:
        super().__init__(clock)
        self.events = Events()
        """What happens in the calls, for whoever subscribes."""
        self.draining = False
        self.accepting = False
        """Whether new calls are accepted: from `start_accepting` until the service drains or stops."""
        self.sampling: tuple[tuple[str, float], ...] = ()
        """How the workers sample unless a call says otherwise, by name."""
        self.on_slot_free: Callable[[], None] = lambda: None
        self.on_transfer_key: Callable[[ActiveCall], None] = lambda _: None
        self._send, self._workers_ready, self._choose, self._checkpoint = send, workers_ready, choose, checkpoint
        self._conversations = ConversationStore(clock)
        self._resumption = Resumption(float(settings.calls.resume_seconds), send, former_prompt, clock)
        self._sessions = SessionFactory(settings, self.statistics, choose, checkpoint)
        self._observers = [*observers, *self._own_observers(settings.logging.digits)]
        self._admission = Admission(0)
        self.last_words = LastWords(is_transcribing=bool(settings.transcribe))

    def _own_observers(self, log_digits: bool) -> Iterator[ObserverFactory]:
        yield lambda call: StreamStatistics(self.statistics, call.session)
        yield lambda call: EventPublisher(self.events, call.session)
        yield lambda call: LogLines(call.session, call.reservation.slot, call.log, log_digits)

    def start_accepting(self, slots: int, processing_s: float) -> None:
        """Accept up to `slots` calls from now on; the workers take `processing_s` for a frame."""
        self._admission = Admission(slots)
        self._conversations.set_slots(slots)
        self.accepting = not self.draining
        self.statistics.set_processing(processing_s)

    def stop_accepting(self) -> None:
        self.draining, self.accepting = True, False

    @property
    def ready(self) -> bool:
        """Whether a new call would get a slot now."""
        return self.takes_calls and self._admission.free_slots > 0

    @property
    def takes_calls(self) -> bool:
        """Whether a new call would get a slot now if one was free."""
        return self.accepting and self._workers_ready()

    @property
    def resumes(self) -> bool:
        """Whether calls go on with their memory: RESUME_SECONDS is not 0."""
        return self._resumption.within_s > 0

    @property
    def pipeline(self) -> str:
        """`ready`, or `starting`, or why the last pipeline was lost while the next one starts, and who waits for it."""
        state = "ready" if self._workers_ready() else self._resumption.loss or "starting"
        waiting = len(self.suspended)
        return f"{state}; {waiting} call{'s' * (waiting > 1)} to resume" if waiting else state

    @property
    def slots(self) -> int:
        """How many calls can be on at once; 0 until `start_accepting`."""
        return self._admission.slots

    @property
    def free_slots(self) -> int:
        return self._admission.free_slots

    def knows_persona(self, name: str) -> bool:
        return self._choose(name, "", "").name == name

    def reserve(self, call_sid: CallSid, request: VoiceRequest = NO_REQUEST) -> Reservation | None:
        """Reserve a slot for a call that rings or comes back, and start its greeting; None without a free slot.

        A call that holds a slot already gets the same reservation; one whose stream is on gets none: see `stand_by`.
        """
        if held := self.call(call_sid):
            held.session.record.set_parties(request.caller, request.called, request.direction)
            held.session.stream.webhook_token = request.webhook_token or held.session.stream.webhook_token
            return held.reservation if held.session.state is CallState.RESERVED else None
        return self._open(call_sid, request) if self.ready or self._can_wait(call_sid) else None

    def lost(self, call_sid: CallSid) -> VoiceRequest | None:
        """Return what a call asked for whose stream was lost, so that it is to go on in another; None for any other."""
        if call := self.call(call_sid):
            session = call.session
            was_on = session.comes_back if session.state is CallState.RESERVED else session.state in ON
            return call.request if self._resumption.within_s and was_on else None
        record = self.record(call_sid)
        is_lost = record and record.end in LOST_ENDS and not record.over
        return self._conversations.find(call_sid) if is_lost else None

    def restore(self, call_sid: CallSid, conversation: Conversation, request: VoiceRequest) -> None:
        """Have a call that another machine had go on with its conversation, once a slot is reserved for it."""
        self._conversations.keep(call_sid, (conversation, request))

    def forget(self, call_sid: CallSid) -> None:
        """Forget what was said in a call that is over."""
        self._conversations.pop(call_sid)

    def stand_by(self, call: ActiveCall, request: VoiceRequest) -> str:
        """Return the token of a stream that Twilio may open in place of the one that is on.

        Which of them Twilio means cannot be known from its webhook: a repeated one looks like that of a call which has
        come back after its stream was lost, before we notice. So the stream goes on, and yields when another socket
        comes; if it ends first, its slot is kept for the other one. Each webhook gives the token its whole time again.
        """
        standby = self._standby(call)
        token = standby.token if standby else new_token()
        call.standby = Standby(token, self._clock() + TTL_S, request)
        return token

    def claim(self, token: str) -> ActiveCall | None:
        """Return the call whose media socket has this token; None if it is unknown, used or expired.

        A stream for which another one stands by ends when the socket of that comes.
        """
        replaced = {on.standby.token: on for on in self._calls.values() if on.standby}.get(token)
        if replaced and self._standby(replaced) and replaced.session.state is not CallState.DRAINING:
            replaced.end(EndReason.REPLACED)  # a stream that drains is to end, and the call with it
        reserved = {
            call.reservation.token: call for call in self._calls.values() if call.session.state is CallState.RESERVED
        }
        call = reserved.get(token)
        if call is None or self._clock() >= call.reservation.expires_s:
            return None
        call.on_socket_open()
        return call

    def handle_message(self, message: BackendMessage) -> None:
        """Handle what comes from the workers, or from Moshi servers; what belongs to a call that is over is dropped."""
        call = self._call_of(message)
        if call is None:
            return
        match message:
            case Frame():
                call.handle_frame(message)
            case Said():
                call.handle_said(message)
            case Moved(reason=reason):
                call.handle_moved(reason)
            case Resumed():
                call.handle_resumed(message)
                self._resumption.drop_prompt(call.session.record.call_sid)
            case Failed(_, _, stage, reason, internal):
                call.end(EndReason.INTERNAL if internal else EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def handle_transcript(self, message: TranscriptMessage) -> None:
        """Handle what the transcriber tells of a call, which may be over."""
        call = self._call_of(message) or self.last_words.find(message.epoch)
        if call is None:
            return
        try:
            call.words.handle_transcript(message, self._clock())
        except Exception:
            call.log.exception("internal error, words of this call are lost")
        if isinstance(message, TranscriptEnd):
            self.last_words.end(message.epoch)

    def on_pipeline_lost(self, reason: str) -> None:
        self._resumption.on_pipeline_lost(reason, self.calls)

    def on_pipeline_ready(self) -> None:
        """Go on with the calls that wait, first with the one that waits longest."""
        self._resumption.on_pipeline_ready(self.suspended)

    def hang_up(self, call_sid: CallSid) -> bool:
        """End a call once what Moshi has said has been played; False if it is not on."""
        call = self.call(call_sid)
        if call:
            call.drain(EndReason.OPERATOR)
        return call is not None

    def drain_calls(self) -> None:
        """End the calls that are on once what Moshi has said has been played."""
        for call in self.calls:
            call.drain(EndReason.SHUTDOWN)

    def stop(self) -> None:
        self.stop_accepting()
        for call in self.calls:
            call.end(EndReason.SHUTDOWN)
        self.events.close()

    def _call_of(self, message: BackendMessage | TranscriptMessage) -> ActiveCall | None:
        """Return the call that a message is about; None if it is over."""
        call = self._calls.get(message.slot)
        return call if call and call.reservation.epoch == message.epoch else None

    def _open(self, call_sid: CallSid, request: VoiceRequest, token: str = "") -> Reservation | None:
        """Reserve a free slot for a stream of a call, of which none is on; None if that fails."""
        now = self._clock()
        reservation = self._admission.reserve(call_sid, now, token)
        assert reservation is not None
        conversation, earlier = self._conversations.pop(call_sid) or (None, request)
        request = replace(request, record=request.record or earlier.record)
        session = self._sessions.make(call_sid, request, now, conversation, self.record(call_sid))
        call = ActiveCall(
            session=session,
            reservation=reservation,
            request=request,
            log=CallLogger(log, call_sid),
            send=self._send,
            checkpoint=self._checkpoint,
            phase_s=lambda: self.phase_s,
            release=self._release,
            clock=self._clock,
            transfer_to=self._choose(session.record.persona, request.called, "").transfer_to,
            on_transfer_key=lambda call: self.on_transfer_key(call),
        )
        self._add(call)
        call.start(self._observers, self._resumption.begin)
        return None if call.over else reservation

    def _can_wait(self, call_sid: CallSid) -> bool:
        """Tell whether a call may come back although the pipeline is being started again."""
        known = self._conversations.find(call_sid) is not None
        return known and self.accepting and self._admission.free_slots > 0

    def _release(self, call: ActiveCall, end: End) -> None:
        """Free the slot of a stream that has ended; give it to the one that stands by, or to whoever waits."""
        self._remove(call)
        self._admission.release(call.reservation)
        self._resumption.drop_prompt(call.session.record.call_sid)
        self._keep_memory(call, end)
        self.last_words.wait(call)
        standby = self._standby(call)
        if standby and end.reason in LINE_ENDS and not call.session.record.over:
            self._open(call.session.record.call_sid, standby.request, standby.token)
        if not self._calls:
            self.no_calls.set()
        try:
            self.on_slot_free()
        except Exception:
            call.log.exception("internal error")

    def _keep_memory(self, call: ActiveCall, end: End) -> None:
        """Keep what a call remembers while it may come back in another stream."""
        record, memory = call.session.record, (call.session.conversation, call.request)
        went_on = call.session.stream.started_s is not None or call.session.comes_back
        if not (self._resumption.within_s and went_on and not record.over and not call.request.chat):
            return
        if end.reason in LINE_ENDS or (call.session.comes_back and end.reason is EndReason.NO_SOCKET):
            self._conversations.keep(record.call_sid, memory)

    def _standby(self, call: ActiveCall) -> Standby | None:
        """Return the stream that stands by for this one, None without one or once its time is over."""
        return call.standby if call.standby and self._clock() < call.standby.expires_s else None
