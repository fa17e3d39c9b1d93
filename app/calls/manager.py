"""Who holds which slot, and which stream a call goes on in."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.active_call import ActiveCall, ObserverFactory, Standby, VoiceRequest
from app.calls.admission import TTL_S, Admission, Reservation, new_token
from app.calls.chat_leg import ChatLeg
from app.calls.events import EventPublisher, Events
from app.calls.last_words import LastWords
from app.calls.limits import CallLimits
from app.calls.observer import LogLines
from app.calls.personas import Chosen, choose_nobody
from app.calls.record import LINE_ENDS, CallRecord, EndReason
from app.calls.registry import CallRegistry
from app.calls.session import CallSession, CallState, End
from app.calls.statistics import StreamStatistics
from app.config import Settings
from app.logging import CallLogger
from app.twilio.events import CallSid
from workers.messages import Failed, Frame, Open, PipelineMessage, Said, TranscriptEnd, TranscriptMessage

log = logging.getLogger(__name__)

MAX_JITTER_S = 0.02
NO_REQUEST = VoiceRequest()


class CallManager(CallRegistry):
    """All calls of this machine.

    `send` passes a message to the workers, `workers_ready` tells whether they are warm; `observers` make what watches a
    stream, besides events, statistics and log lines; `choose` returns who speaks, by the name that a call asks for, the
    number called and the id of a one-time prompt; `clock` returns seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        send: Callable[[PipelineMessage], None],
        workers_ready: Callable[[], bool],
        observers: Sequence[ObserverFactory] = (),
        choose: Callable[[str, str, str], Chosen] = choose_nobody,
        *,
        clock: Callable[[], float] = time.monotonic,  # the loop's own time is rounded to milliseconds by uvloop
    ) -> None:
        super().__init__(clock)
        self.events = Events()
        """What happens in the calls, for whoever subscribes."""
        self.draining = False
        self.accepting = False
        """Whether new calls are accepted: from `start_accepting` until the service drains or stops."""
        self.on_slot_free: Callable[[], None] = lambda: None
        self.on_transfer_key: Callable[[ActiveCall], None] = lambda _: None
        self._settings = settings
        self._send = send
        self._workers_ready = workers_ready
        self._choose = choose
        self._observers: list[ObserverFactory] = [
            *observers,
            lambda call: StreamStatistics(self.statistics, call.session),
            lambda call: EventPublisher(self.events, call.session),
            lambda call: LogLines(call.session, call.reservation.slot, call.log, settings.logging.digits),
        ]
        self._admission = Admission(0)
        self._last_words = LastWords(is_transcribing=bool(settings.transcribe))
        self._pipeline_loss = ""

    def start_accepting(self, slots: int, processing_s: float) -> None:
        """Accept up to `slots` calls from now on; the workers take `processing_s` for a frame."""
        self._admission = Admission(slots)
        self.accepting = not self.draining
        self.statistics.set_processing(processing_s)

    def stop_accepting(self) -> None:
        self.draining, self.accepting = True, False

    @property
    def ready(self) -> bool:
        """Whether a new call would get a slot now."""
        return self.accepting and self._workers_ready() and self._admission.free_slots > 0

    @property
    def pipeline(self) -> str:
        """`ready`, or `starting`, or why the last pipeline was lost while the next one starts."""
        return "ready" if self._workers_ready() else self._pipeline_loss or "starting"

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
        return self._open(call_sid, request) if self.ready else None

    def stand_by(self, call: ActiveCall, request: VoiceRequest) -> str:
        """Return the token of a stream that Twilio may open in place of the one that is on.

        Which of them Twilio means cannot be known from its webhook: a repeated one looks like that of a call which has
        come back after its stream was lost, before we notice. So the stream goes on, and yields when another socket
        comes; if it ends first, its slot is kept for the other one.
        """
        standby = self._standby(call)
        if standby is None:
            call.standby = standby = Standby(new_token(), self._clock() + TTL_S, request)
        return standby.token

    def reject(self, call_sid: CallSid, request: VoiceRequest, detail: str) -> None:
        """Record that a call was hung up on for want of a slot; one that was served keeps its end."""
        now = self._clock()
        record = self.record(call_sid) or CallRecord(call_sid, now)
        record.set_parties(request.caller, request.called, request.direction)
        record.refused = detail
        if record.end is None:
            record.ended_s, record.end, record.detail = now, EndReason.NO_SLOT, detail
            self._add_ended(record)

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

    def handle_message(self, message: PipelineMessage) -> None:
        """Handle what comes from the workers; what belongs to a call that is over is dropped."""
        call = self._calls.get(message.slot)
        if call is None or call.reservation.epoch != message.epoch:
            return
        match message:
            case Frame():
                call.handle_frame(message)
            case Said():
                call.handle_said(message)
            case Failed(_, _, stage, reason, internal):
                call.end(EndReason.INTERNAL if internal else EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def handle_transcript(self, message: TranscriptMessage) -> None:
        """Handle what the transcriber tells of a call, which may be over."""
        call = self._calls.get(message.slot)
        if call is None or call.reservation.epoch != message.epoch:
            call = self._last_words.find(message.epoch)
        if call is None:
            return
        try:
            call.handle_transcript(message)
        except Exception:
            call.log.exception("internal error, words of this call are lost")
        if isinstance(message, TranscriptEnd):
            self._last_words.end(message.epoch)

    async def finish_words(self, within_s: float) -> None:
        """Wait for the last words of calls that are over, so long at most."""
        await self._last_words.finish(within_s)

    def on_pipeline_lost(self, reason: str) -> None:
        self._pipeline_loss = reason
        self._end_all(EndReason.WORKER_LOST, reason)

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
        """Accept no more calls and end those that are on."""
        self.stop_accepting()
        self._end_all(EndReason.SHUTDOWN)
        self.events.close()

    def _end_all(self, reason: EndReason, detail: str = "") -> None:
        for call in self.calls:
            call.end(reason, detail)

    def _open(self, call_sid: CallSid, request: VoiceRequest, token: str = "") -> Reservation | None:
        """Reserve a free slot for a stream of a call, of which none is on; None if that fails."""
        now, chosen = self._clock(), self._choose(request.persona, request.called, request.prompt)
        limits = self._limits(request, chosen)
        reservation = self._admission.reserve(call_sid, now, token)
        assert reservation is not None
        account_sid, record = self._settings.twilio.account_sid, self.record(call_sid)
        leg = ChatLeg(limits) if request.chat else None
        session = CallSession(call_sid, account_sid, limits, now, record, request.webhook_token, leg)
        session.record.set_parties(request.caller, request.called, request.direction)
        session.record.persona = chosen.name
        call = ActiveCall(
            session=session,
            reservation=reservation,
            request=request,
            log=CallLogger(log, call_sid),
            send=self._send,
            phase_s=lambda: self.phase_s,
            release=self._release,
            clock=self._clock,
            transfer_to=chosen.transfer_to,
            on_transfer_key=lambda call: self.on_transfer_key(call),
        )
        self._add(call)
        if request.persona not in ("", chosen.name):
            call.log.warning("there is no persona %.40a, %s speaks", request.persona, chosen.name or "Moshi")
        if request.prompt not in ("", chosen.call.prompt):
            call.log.warning("the prompt of this call is unknown, used or expired: it begins without")
        opening = Open(
            reservation.slot,
            reservation.epoch,
            limits.greeting_frames,
            seed=self._settings.sampling.seed if request.seed is None else request.seed,
            persona=replace(chosen.call, sampling=tuple(dict(chosen.call.sampling + request.sampling).items())),
        )
        call.start(self._observers, opening)
        return None if call.over else reservation

    def _limits(self, request: VoiceRequest, chosen: Chosen) -> CallLimits:
        calls, most, wanted = self._settings.calls, self._settings.greeting_steps, request.greeting_frames
        silent = most if wanted is None else min(wanted, most)
        return CallLimits(
            greeting_frames=self._settings.greeting_word_steps if chosen.call.greeting else silent,
            socket_within_s=TTL_S,
            max_call_s=calls.max_seconds,
            processing_s=self.statistics.processing_s,
            jitter_s=min(max(FIRST_JITTER_S, self.statistics.jitter_s), MAX_JITTER_S),
            idle_s=calls.idle_seconds,
            hangup_digit=calls.hangup_digit,
            transfer_digit=self._settings.transfer.digit,
        )

    def _release(self, call: ActiveCall, end: End) -> None:
        """Free the slot of a stream that has ended; give it to the one that stands by, or to whoever waits."""
        self._remove(call)
        self._admission.release(call.reservation)
        self._last_words.wait(call)
        standby = self._standby(call)
        if standby and end.reason in LINE_ENDS and not call.session.record.over:
            self._open(call.session.record.call_sid, standby.request, standby.token)
        if not self._calls:
            self.no_calls.set()
        try:
            self.on_slot_free()
        except Exception:
            call.log.exception("internal error")

    def _standby(self, call: ActiveCall) -> Standby | None:
        """Return the stream that stands by for this one, None without one or once its time is over."""
        return call.standby if call.standby and self._clock() < call.standby.expires_s else None
