"""The calls that are on: who holds which slot, which stream a call goes on in, and the records of the last calls."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.active_call import ActiveCall, ObserverFactory, Standby, VoiceRequest
from app.calls.admission import TTL_S, Admission, Reservation, new_token
from app.calls.events import Events
from app.calls.live_events import LiveEvents
from app.calls.log_lines import LogLines
from app.calls.record import LINE_ENDS, CallRecord, EndReason
from app.calls.records import CallRecords
from app.calls.session import CallLimits, CallSession, CallState, End
from app.calls.statistics import Statistics
from app.config import Settings
from app.logging import CallLog
from app.twilio.events import CallSid
from workers.messages import Failed, Frame, Open, PipelineMessage, Slot

log = logging.getLogger(__name__)

MAX_JITTER_S = 0.02
NO_REQUEST = VoiceRequest()


class CallManager:
    """All calls of this machine.

    `send` passes a message to the workers, `workers_ready` tells whether they are warm; `observers` make what watches a
    stream, besides events, statistics and log lines; `clock` returns seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        send: Callable[[PipelineMessage], None],
        workers_ready: Callable[[], bool],
        observers: Sequence[ObserverFactory] = (),
        clock: Callable[[], float] = time.monotonic,  # the loop's own time is rounded to milliseconds by uvloop
    ) -> None:
        self.events = Events()
        """What happens in the calls, for whoever subscribes."""
        self.statistics = Statistics()
        self.draining = False
        self.accepting = False
        """Whether new calls are accepted: from `start_accepting` until the service drains or stops."""
        self.on_slot_free: Callable[[], None] = lambda: None
        self.no_calls = asyncio.Event()
        """Set while no call is on."""
        self.no_calls.set()
        self._settings = settings
        self._send = send
        self._workers_ready = workers_ready
        events, lines = self._publish_events, LogLines.factory(log_digits=settings.logging.digits)
        self._observers = [*observers, self.statistics.observe, events, lines]
        self._clock = clock
        self._admission = Admission(0)
        self._calls: dict[Slot, ActiveCall] = {}
        self._by_sid: dict[CallSid, ActiveCall] = {}
        self._standbys: dict[str, ActiveCall] = {}
        self._records = CallRecords()
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
    def active_calls(self) -> int:
        """How many slots are reserved or in use."""
        return len(self._calls)

    @property
    def slots(self) -> int:
        """How many calls can be on at once; 0 until `start_accepting`."""
        return self._admission.slots

    @property
    def free_slots(self) -> int:
        return self._admission.free_slots

    @property
    def counts(self) -> Counter[str]:
        """What all calls have counted, by name, those that are on included."""
        total = self.statistics.counts.copy()
        for call in self._calls.values():
            total.update(call.session.counts)
        return total

    @property
    def states(self) -> Counter[CallState]:
        return Counter(call.session.state for call in self._calls.values())

    @property
    def phase_s(self) -> float | None:
        """When the next frame of a live call becomes complete; None without one."""
        now = self._clock()
        return next((moment for call in self._calls.values() if (moment := call.session.phase_s(now))), None)

    @property
    def calls(self) -> list[ActiveCall]:
        """The calls that are on, in the order of their reservations."""
        return sorted(self._calls.values(), key=lambda call: call.reservation.epoch)

    def call(self, call_sid: CallSid) -> ActiveCall | None:
        return self._by_sid.get(call_sid)

    def records(self) -> list[CallRecord]:
        return self._records.all()

    def record(self, call_sid: CallSid) -> CallRecord | None:
        return self._records.get(call_sid)

    def holds(self, call_sid: CallSid) -> bool:
        """Tell whether a slot is reserved for this call, whose socket has not come yet."""
        call = self._by_sid.get(call_sid)
        return call is not None and call.session.state is CallState.RESERVED

    def reserve(self, call_sid: CallSid, request: VoiceRequest = NO_REQUEST) -> Reservation | None:
        """Reserve a slot for a call that rings or comes back, and start its greeting; None without a free slot.

        A call that holds a slot already gets the same reservation; one whose stream is on gets none: see `stand_by`.
        """
        if held := self._by_sid.get(call_sid):
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
        now = self._clock()
        if call.standby is None or now >= call.standby.expires_s:
            self._drop_standby(call)
            call.standby = Standby(new_token(), now + TTL_S, request)
            self._standbys[call.standby.token] = call
        return call.standby.token

    def reject(self, call_sid: CallSid, request: VoiceRequest, detail: str) -> None:
        """Record that a call was hung up on for want of a slot; one that was served keeps its end."""
        now = self._clock()
        record = self._records.get(call_sid) or CallRecord(call_sid, now)
        record.set_parties(request.caller, request.called, request.direction)
        record.refused = detail
        if record.end is None:
            record.ended_s, record.end, record.detail = now, EndReason.NO_SLOT, detail
            self._records.close(record)

    def claim(self, token: str) -> ActiveCall | None:
        """Return the call whose media socket has this token; None if it is unknown, used or expired."""
        if on := self._standbys.get(token):
            self._replace(on)
        reservation = self._admission.claim(token, self._clock())
        call = self._calls.get(reservation.slot) if reservation else None
        if call:
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
            case Failed(_, _, stage, reason, internal):
                call.end(EndReason.INTERNAL if internal else EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def on_pipeline_lost(self, reason: str) -> None:
        self._pipeline_loss = reason
        self._end_all(EndReason.WORKER_LOST, reason)

    def hang_up(self, call_sid: CallSid) -> bool:
        """End a call once what Moshi has said has been played; False if it is not on."""
        call = self._by_sid.get(call_sid)
        if call:
            call.drain(EndReason.OPERATOR)
        return call is not None

    def drain_calls(self) -> None:
        """End the calls that are on once what Moshi has said has been played."""
        for call in list(self._calls.values()):
            call.drain(EndReason.SHUTDOWN)

    def stop(self) -> None:
        """Accept no more calls and end those that are on."""
        self.stop_accepting()
        self._end_all(EndReason.SHUTDOWN)
        self.events.close()

    def _end_all(self, reason: EndReason, detail: str = "") -> None:
        for call in list(self._calls.values()):
            call.end(reason, detail)

    def _open(self, call_sid: CallSid, request: VoiceRequest, token: str = "") -> Reservation | None:
        """Reserve a free slot for a stream of a call, of which none is on; None if that fails."""
        now, limits = self._clock(), self._limits(request)
        reservation = self._admission.reserve(call_sid, now, token)
        assert reservation is not None
        account_sid, record = self._settings.twilio.account_sid, self._records.get(call_sid)
        session = CallSession(call_sid, account_sid, limits, now, record, request.webhook_token)
        session.record.set_parties(request.caller, request.called, request.direction)
        call = ActiveCall(
            session=session,
            reservation=reservation,
            request=request,
            log=CallLog(log, call_sid),
            send=self._send,
            phase_s=lambda: self.phase_s,
            release=self._release,
            clock=self._clock,
        )
        self._calls[reservation.slot] = self._by_sid[call_sid] = call
        self._records.open(session.record)
        self.no_calls.clear()
        opening = Open(reservation.slot, reservation.epoch, limits.greeting_frames, seed=self._settings.sampling.seed)
        call.start(self._observers, opening)
        return None if call.over else reservation

    def _limits(self, request: VoiceRequest) -> CallLimits:
        settings, greeting_frames = self._settings, self._settings.greeting_steps
        if request.greeting_frames is not None:
            greeting_frames = min(request.greeting_frames, greeting_frames)
        return CallLimits(
            greeting_frames=greeting_frames,
            socket_within_s=TTL_S,
            max_call_s=settings.calls.max_seconds,
            processing_s=self.statistics.processing_s,
            jitter_s=min(max(FIRST_JITTER_S, self.statistics.jitter_s), MAX_JITTER_S),
            idle_s=settings.calls.idle_seconds,
            hangup_digit=settings.calls.hangup_digit,
        )

    def _publish_events(self, call: ActiveCall) -> LiveEvents:
        return LiveEvents(self.events, call.session.record, call.session.stream)

    def _release(self, call: ActiveCall, end: End) -> None:
        """Free the slot of a stream that has ended; give it to the one that stands by, or to whoever waits."""
        del self._calls[call.reservation.slot], self._by_sid[call.session.record.call_sid]
        self._records.close(call.session.record)
        self._admission.release(call.reservation)
        self._follow(call, end)
        if not self._calls:
            self.no_calls.set()
        try:
            self.on_slot_free()
        except Exception:
            call.log.exception("internal error")

    def _follow(self, call: ActiveCall, end: End) -> None:
        """Give the slot of a stream that has ended to the one that stands by, if the phone call may still be on."""
        standby, record = call.standby, call.session.record
        self._drop_standby(call)
        expired = standby is None or self._clock() >= standby.expires_s
        if standby and not expired and end.reason in LINE_ENDS and not record.over:
            self._open(record.call_sid, standby.request, standby.token)

    def _replace(self, call: ActiveCall) -> None:
        """End a stream for the one that stands by; not one that is draining because we want the call to end."""
        standby = call.standby
        if standby and self._clock() < standby.expires_s and call.session.state is not CallState.DRAINING:
            call.end(EndReason.REPLACED)

    def _drop_standby(self, call: ActiveCall) -> None:
        if call.standby:
            del self._standbys[call.standby.token]
            call.standby = None
