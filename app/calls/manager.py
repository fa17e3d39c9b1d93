"""Connects calls with the workers: the one place that knows which session sits in which slot.

It carries out what the sessions decide. Everything here runs on the event loop and never waits.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.admission import TTL_S, Admission, Reservation, new_token
from app.calls.events import Events
from app.calls.live_events import ERRORS, LiveEvents
from app.calls.record import CallRecord, EndReason, Recording
from app.calls.records import CallRecords
from app.calls.session import CallLimits, CallSession, CallState, Command, End, SendFrame
from app.calls.statistics import Histograms
from app.config import Settings
from app.logging import CallLog
from app.telemetry.recording.recorder import OUR_FAULT, CallRecorder, Record, record_nothing
from app.twilio.events import CallSid, DtmfPressed, Event, Started
from workers.messages import Close, Failed, Frame, Open, PipelineMessage, Slot

log = logging.getLogger(__name__)

Keep = Callable[[CallRecord, Slot], None]

OUTBOX_MESSAGES = 128
"""Frames that may wait for a socket, ten seconds of them. One that lets more pile up is given up."""
LIKELY_JITTER = 0.6
"""The share of a frame's time by which it may be taken to sway until calls have shown it."""
JITTER_DECAY = 0.999
MAX_JITTER_S = 0.02
NEWS = 0.02
"""How much each frame counts in what the workers are taken to need."""
ENDS_OF_THE_LINE = {
    EndReason.CALLER_HUNG_UP,
    EndReason.SOCKET_LOST,
    EndReason.SOCKET_BLOCKED,
    EndReason.PROTOCOL,
    EndReason.REPLACED,
}
"""Ends of a stream that did not come from us: the call may go on in another stream."""


def keep_nothing(record: CallRecord, slot: Slot) -> None:
    """Keep no calls."""


def keep_in(*places: Keep) -> Keep:
    """Keep calls in several places."""

    def keep(record: CallRecord, slot: Slot) -> None:
        for place in places:
            place(record, slot)

    return keep


@dataclass(frozen=True, slots=True)
class VoiceRequest:
    """What a voice webhook says of a call, and asks for.

    `greeting_frames` may shorten the greeting of the settings: the workers hold no more silence ready. `record` asks
    for a recording. `webhook_token` is the webhook's I-Twilio-Idempotency-Token.
    """

    greeting_frames: int | None = None
    caller: str = ""
    called: str = ""
    direction: str = ""
    record: bool = False
    webhook_token: str = ""


NOTHING_ASKED = VoiceRequest()


@dataclass(frozen=True, slots=True)
class Standby:
    """The token of a stream that Twilio may open while another one of the call is on; it holds no slot of its own."""

    token: str
    expires_s: float
    request: VoiceRequest


@dataclass
class ActiveCall:
    """A session and what it needs to act: `outbox` holds what to send; None asks to close the socket."""

    session: CallSession
    reservation: Reservation
    log: CallLog
    observer: LiveEvents
    recorder: CallRecorder | None = None
    outbox: asyncio.Queue[PlayoutCommand | None] = field(default_factory=lambda: asyncio.Queue(OUTBOX_MESSAGES))
    timer: asyncio.TimerHandle | None = None
    timer_s: float = 0.0
    """When it goes off."""
    standby: Standby | None = None
    is_observed: bool = True
    """False once the observer has failed."""


class CallManager:
    """All calls of this machine.

    `send` passes a message to the workers, `workers_ready` tells whether they are warm, `keep` puts a call that begins
    and one that has ended into the call log, `record` begins to record one; `clock` gives the time in seconds,
    monotonic. `events` tells what happens to whoever listens.
    """

    def __init__(
        self,
        settings: Settings,
        send: Callable[[PipelineMessage], None],
        workers_ready: Callable[[], bool],
        keep: Keep = keep_nothing,
        clock: Callable[[], float] = time.monotonic,  # the loop's own time is rounded to milliseconds by uvloop
        record: Record = record_nothing,
    ) -> None:
        self.events = Events()
        self._record = record
        self._keep = keep
        self._settings = settings
        self._now = clock
        self._send = send
        self._workers_ready = workers_ready
        self._admission = Admission(0)
        self._calls: dict[Slot, ActiveCall] = {}
        self._on: dict[CallSid, ActiveCall] = {}
        self._standbys: dict[str, ActiveCall] = {}
        self._records = CallRecords()
        self._draining = False
        self._loss = ""
        self.histograms = Histograms()
        """What took how long, of all calls so far."""
        self.ends: Counter[EndReason] = Counter()
        """How many calls ended for which reason; one that came back counts once, as its first stream ended."""
        self.stream_ends: Counter[EndReason] = Counter()
        """How many streams ended for which reason, of all calls."""
        self._counts: Counter[str] = Counter()
        self.accepting = False
        """Whether calls are taken: from `start_accepting` on, until it drains or stops."""
        self.on_slot_free: Callable[[], None] = lambda: None
        """Called when a slot has come free."""
        self.no_calls = asyncio.Event()
        """Set while no call is on."""
        self.no_calls.set()
        self.processing_s = 0.0
        """What the workers lately took for a frame, from the caller's PCM to Moshi's, on average."""
        self.jitter_s = 0.0
        """By how much a frame lately took longer than that: a maximum that fades."""

    def start_accepting(self, slots: int, processing_s: float) -> None:
        """Take calls from now on, `slots` at once; the workers take `processing_s` for a frame."""
        self._admission = Admission(slots)
        self.accepting = not self._draining
        self.processing_s, self.jitter_s = processing_s, processing_s * LIKELY_JITTER

    @property
    def ready(self) -> bool:
        """Whether a call could be taken now."""
        return self.accepting and self._workers_ready() and self._admission.free_slots > 0

    @property
    def pipeline(self) -> str:
        """`ready`, or `starting`, or why the last pipeline was lost while the next one starts."""
        return "ready" if self._workers_ready() else self._loss or "starting"

    @property
    def draining(self) -> bool:
        """Whether the service is to stop."""
        return self._draining

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
        """What all calls so far have counted, by name, those that are on included."""
        total = self._counts.copy()
        for call in self._calls.values():
            total.update(call.session.counts)
        return total

    @property
    def states(self) -> Counter[CallState]:
        """How many of the calls that are on have come how far."""
        return Counter(call.session.state for call in self._calls.values())

    @property
    def phase_s(self) -> float | None:
        """When the next frame of a live call becomes complete: the beat for a new call; None without one."""
        now = self._now()
        return next((moment for call in self._calls.values() if (moment := call.session.phase_s(now))), None)

    def records(self) -> list[CallRecord]:
        """The last calls that were, oldest first, and those that are on."""
        return self._records.all()

    def record(self, call_sid: CallSid) -> CallRecord | None:
        """Return the record of a call, None if it is not known any more."""
        return self._records.get(call_sid)

    @property
    def calls(self) -> list[ActiveCall]:
        """What is on, whoever rang first first."""
        return sorted(self._calls.values(), key=lambda call: call.reservation.epoch)

    def call(self, call_sid: CallSid) -> ActiveCall | None:
        """Return what is on of a phone call, None if nothing is."""
        return self._on.get(call_sid)

    def holds(self, call_sid: CallSid) -> bool:
        """Tell whether a slot is reserved for this call, whose socket has not come yet."""
        call = self._on.get(call_sid)
        return call is not None and call.session.state is CallState.RESERVED

    def reserve(self, call_sid: CallSid, request: VoiceRequest = NOTHING_ASKED) -> Reservation | None:
        """Hold a slot for a call that rings or comes back, and start its greeting; None when no call can be taken.

        A call that holds a slot already gets the same reservation; one whose stream is on gets none: see `stand_by`.
        """
        if held := self._on.get(call_sid):
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
        now = self._now()
        if call.standby is None or now >= call.standby.expires_s:
            self._drop_standby(call)
            call.standby = Standby(new_token(), now + TTL_S, request)
            self._standbys[call.standby.token] = call
        return call.standby.token

    def reject(self, call_sid: CallSid, request: VoiceRequest, detail: str) -> None:
        """Take down that a call was hung up on for want of a slot; one that was served keeps its end."""
        now = self._now()
        record = self._records.get(call_sid) or CallRecord(call_sid, now)
        record.set_parties(request.caller, request.called, request.direction)
        record.refused = detail
        if record.end is None:
            record.ended_s, record.end, record.detail = now, EndReason.NO_SLOT, detail
            self._records.close(record)

    def claim(self, token: str) -> ActiveCall | None:
        """Give the call of this token its socket; None if the token is unknown, used or expired."""
        now = self._now()
        if on := self._standbys.get(token):
            self._replace(on)
        reservation = self._admission.claim(token, now)
        call = self._calls.get(reservation.slot) if reservation else None
        if call:
            call.session.on_socket_open(now)
            self._set_timer(call)
            if call.session.stream.number > 1:
                call.log.info("the call is back: stream %d", call.session.stream.number)
                self._safely(call, self._keep, call.session.record, call.reservation.slot)
        return call

    def handle_event(self, call: ActiveCall, event: Event) -> None:
        """Take one of Twilio's events."""
        self._drive(call, self._receive, call, event)

    def do(self, call: ActiveCall, commands: list[Command]) -> None:
        """Carry out what a session decided."""
        self._drive(call, lambda: commands)

    def hang_up(self, call_sid: CallSid) -> bool:
        """End a call once what Moshi has said is heard, as an operator wishes; False if it is not on."""
        call = self._on.get(call_sid)
        if call:
            self._drive(call, call.session.drain, EndReason.OPERATOR, self._now())
        return call is not None

    def end(self, call: ActiveCall, reason: EndReason, detail: str = "") -> None:
        """End one call from outside its session."""
        self._drive(call, call.session.end, reason, self._now(), detail)

    def handle_message(self, message: PipelineMessage) -> None:
        """Take what came round the ring."""
        call = self._calls.get(message.slot)
        if call is None or call.reservation.epoch != message.epoch:
            return
        match message:
            case Frame():
                self._drive(call, self._take_frame, call, message)
            case Failed(_, _, stage, reason, internal):
                self.end(call, EndReason.INTERNAL if internal else EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def on_pipeline_lost(self, reason: str) -> None:
        """End all calls: the pipeline is lost."""
        self._loss = reason
        for call in list(self._calls.values()):
            self.end(call, EndReason.WORKER_LOST, reason)

    def stop_accepting(self) -> None:
        """Take no more calls."""
        self._draining, self.accepting = True, False

    def drain_calls(self) -> None:
        """End the calls that are on once what Moshi has said is heard."""
        for call in list(self._calls.values()):
            self._drive(call, call.session.drain, EndReason.SHUTDOWN, self._now())

    def stop(self) -> None:
        """Take no more calls and end those that are on."""
        self.stop_accepting()
        for call in list(self._calls.values()):
            self.end(call, EndReason.SHUTDOWN)
        self.events.close()

    def _open(self, call_sid: CallSid, request: VoiceRequest, token: str = "") -> Reservation | None:
        """Reserve a free slot for a stream of a call, of which none is on; None if that fails."""
        now = self._now()
        reservation = self._admission.reserve(call_sid, now, token)
        assert reservation is not None
        limits = self._limits(request)
        account_sid, record = self._settings.twilio.account_sid, self._records.get(call_sid)
        session = CallSession(call_sid, account_sid, limits, now, self.histograms, record, request.webhook_token)
        session.record.set_parties(request.caller, request.called, request.direction)
        observer = LiveEvents(self.events, session.record, session.stream)
        call = ActiveCall(session, reservation, CallLog(log, call_sid), observer)
        self._calls[reservation.slot] = self._on[call_sid] = call
        self._records.open(session.record)
        self.no_calls.clear()
        call.recorder = self._begin_recording(call, request.record)
        opening = Open(reservation.slot, reservation.epoch, limits.greeting_frames, seed=self._settings.sampling.seed)
        self._drive(call, self._send_opening, opening)
        if session.stream.number == 1:
            self._safely(call, self._keep, session.record, reservation.slot)
        call.log.info("slot %d reserved", reservation.slot)
        return reservation if self._on.get(call_sid) is call else None

    def _limits(self, request: VoiceRequest) -> CallLimits:
        settings, greeting_frames = self._settings, self._settings.greeting_steps
        if request.greeting_frames is not None:
            greeting_frames = min(request.greeting_frames, greeting_frames)
        return CallLimits(
            greeting_frames,
            TTL_S,
            settings.calls.max_seconds,
            self.processing_s,
            min(max(FIRST_JITTER_S, self.jitter_s), MAX_JITTER_S),
            settings.calls.idle_seconds,
            settings.calls.hangup_digit,
        )

    def _begin_recording(self, call: ActiveCall, asked: bool) -> CallRecorder | None:
        try:
            return self._record(call.session.record, asked)
        except Exception:  # the call goes on without
            call.log.exception("the call is not recorded")
            call.session.stream.recording = Recording(fault=OUR_FAULT)
            return None

    def _send_opening(self, opening: Open) -> list[Command]:
        self._send(opening)
        return []

    def _drive(self, call: ActiveCall, decide: Callable[..., list[Command]], *arguments: object) -> None:
        """Have a session decide and carry that out. An error of ours ends this call, and no other."""
        try:
            self._carry_out(call, decide(*arguments))
        except Exception as error:
            self._fail(call, error)

    def _receive(self, call: ActiveCall, event: Event) -> list[Command]:
        now = self._now()
        if isinstance(event, DtmfPressed):
            call.log.info("key %.1s", event.digit if self._settings.logging.digits else "*")
        phase_s = self.phase_s if isinstance(event, Started) else None
        commands = call.session.receive(event, now, phase_s)
        self._observe(call, call.observer.on_event, event, now)
        if call.recorder:
            self._write_down(call, call.recorder.on_event, event, call.session, now)
        return commands

    def _take_frame(self, call: ActiveCall, frame: Frame) -> list[Command]:
        now = self._now()
        self._note_processing(frame)
        self._observe(call, call.observer.on_frame, frame, now)
        if call.recorder:
            self._write_down(call, call.recorder.on_frame, frame)
        return call.session.handle_frame(frame, now)

    def _carry_out(self, call: ActiveCall, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendAudio() | SendMark() | ClearAudio():
                    self._put(call, command)
                case SendFrame(seq, pcm):
                    self._send(Frame(call.reservation.slot, call.reservation.epoch, seq, pcm))
                case End():
                    self._finish(call, command)
        self._set_timer(call)

    def _fail(self, call: ActiveCall, error: Exception) -> None:
        """End a call in which something of ours went wrong, whatever state that has left it in."""
        call.log.error("internal error, this call ends", exc_info=error)
        end = End(EndReason.INTERNAL, type(error).__name__)
        self._safely(call, call.session.end, end.reason, self._now(), end.detail)
        if call.session.stream.end is None:
            call.session.record.on_end(call.session.stream, end.reason, end.detail, self._now())
        if self._calls.get(call.reservation.slot) is call:
            self._finish(call, end)

    def _observe(self, call: ActiveCall, note: Callable[..., None], *arguments: object) -> None:
        """Show the observer what happens; one that fails is shown no more, and the call goes on."""
        if not call.is_observed:
            return
        try:
            note(*arguments)
        except Exception:
            call.is_observed = False
            call.log.exception("the live view and the events of this call stop")

    def _write_down(self, call: ActiveCall, note: Callable[..., None], *arguments: object) -> None:
        """Give the recorder what happens; if that fails the recording is broken off, and the call goes on."""
        try:
            note(*arguments)
        except Exception:
            call.log.exception("the recording of this call is broken off")
            if call.recorder:
                call.recorder.break_off(OUR_FAULT)
            call.recorder = None

    def _safely(self, call: ActiveCall, act: Callable[..., object], *arguments: object) -> None:
        """Do one of several things, of which each is to be done whatever becomes of the others."""
        try:
            act(*arguments)
        except Exception:
            call.log.exception("internal error")

    def _put(self, call: ActiveCall, command: PlayoutCommand) -> None:
        try:
            call.outbox.put_nowait(command)
        except asyncio.QueueFull:
            self.end(call, EndReason.SOCKET_BLOCKED)
        else:
            self._observe(call, call.observer.on_sent, command, self._now())
            if call.recorder:
                self._write_down(call, call.recorder.on_sent, command, call.session)

    def _finish(self, call: ActiveCall, end: End) -> None:
        """Give back what a call holds, then tell of its end."""
        reservation, record, stream = call.reservation, call.session.record, call.session.stream
        if call.timer:
            call.timer.cancel()
        del self._calls[reservation.slot], self._on[record.call_sid]
        self._records.close(record)
        self._admission.release(reservation)
        self._safely(call, self._send, Close(reservation.slot, reservation.epoch))
        while not call.outbox.empty():  # nobody will hear it, and after `stop` it may not be sent
            call.outbox.get_nowait()
        call.outbox.put_nowait(None)
        self.stream_ends[end.reason] += 1
        self.ends[end.reason] += stream.number == 1
        self._safely(call, self._end_recording, call)
        self._safely(call, self._counts.update, call.session.counts)
        self._safely(call, self._keep, record, reservation.slot)
        self._safely(call, call.observer.on_end, end, self._now())
        self._safely(call, self._tell_end, call, end)
        self._safely(call, self._follow, call, end)
        if not self._calls:
            self.no_calls.set()
        self._safely(call, self.on_slot_free)

    def _end_recording(self, call: ActiveCall) -> None:
        if call.recorder:
            keep_again = partial(self._keep, call.session.record, call.reservation.slot)
            call.recorder.when_broken = partial(asyncio.get_running_loop().call_soon_threadsafe, keep_again)
            call.recorder.on_end(self._now())

    def _follow(self, call: ActiveCall, end: End) -> None:
        """Give the slot of a stream that has ended to the one that stands by, if the phone call may still be on."""
        standby, record = call.standby, call.session.record
        self._drop_standby(call)
        expired = standby is None or self._now() >= standby.expires_s
        if standby and not expired and end.reason in ENDS_OF_THE_LINE and not record.over:
            self._open(record.call_sid, standby.request, standby.token)

    def _replace(self, call: ActiveCall) -> None:
        """End a stream for the one that stands by; not one that is about to end because we want the call to end."""
        standby = call.standby
        if standby and self._now() < standby.expires_s and call.session.state is not CallState.DRAINING:
            self.end(call, EndReason.REPLACED)

    def _drop_standby(self, call: ActiveCall) -> None:
        if call.standby:
            del self._standbys[call.standby.token]
            call.standby = None

    def _tell_end(self, call: ActiveCall, end: End) -> None:
        counts = dict(call.session.counts)
        level = logging.WARNING if end.reason in ERRORS else logging.INFO
        facts = {"end": end.reason.name.lower(), "counts": counts}
        detail = f" ({end.detail})" if end.detail else ""
        call.log.log(level, "ended: %s%s %s", end.reason, detail, counts, extra={"facts": facts})

    def _set_timer(self, call: ActiveCall) -> None:
        """See that the timer goes off in time: one that is too early looks again, so it is moved forward only."""
        due_s = call.session.get_timer()
        if call.timer and call.timer_s <= due_s:
            return
        if call.timer:
            call.timer.cancel()
            call.timer = None
        if self._calls.get(call.reservation.slot) is call:
            call.timer_s = due_s
            call.timer = asyncio.get_running_loop().call_later(due_s - self._now(), self._handle_timer, call)

    def _handle_timer(self, call: ActiveCall) -> None:
        call.timer = None
        self._drive(call, call.session.handle_timer, self._now())

    def _note_processing(self, frame: Frame) -> None:
        if len(frame.spans) == len(("encode", "step", "decode")):
            took_s = frame.spans[-1].ended_s - frame.spans[0].started_s
            self.jitter_s = max(took_s - self.processing_s, JITTER_DECAY * self.jitter_s)
            self.processing_s += NEWS * (took_s - self.processing_s)
