"""Connects calls with the workers: the one place that knows which session sits in which slot.

It carries out what the sessions decide. Everything here runs on the event loop and never waits.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from app.call.admission import TTL_S, Admission, Reservation
from app.call.lead import FIRST_SWAY_S
from app.call.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.call.record import CallRecord, EndReason
from app.call.session import CallLimits, CallSession, Command, End, Listen, State
from app.call.tallies import Tallies
from app.config import Settings
from app.log import CallLog
from app.recording.recorder import CallRecorder, Record, record_nothing
from app.service.events import Events
from app.service.observer import ERRORS, CallObserver
from app.twilio.events import CallSid, DtmfPressed, Event
from workers.messages import Close, Failed, Frame, Open, PipelineMessage, Slot

log = logging.getLogger(__name__)

Keep = Callable[[CallRecord, Slot], None]

OUTBOX_MESSAGES = 128
"""Frames that may wait for a socket, ten seconds of them. One that lets more pile up is given up."""
RECORDS_KEPT = 200
RECORDS_WITH_SPANS = 8
"""How many of them keep the times of every frame."""
LIKELY_SWAY = 0.6
"""The share of a frame's time by which it may be taken to sway until calls have shown it."""
SWAY_FADING = 0.999
MOST_SWAY_S = 0.02
NEWS = 0.02
"""How much each frame counts in what the workers are taken to need."""


def keep_nothing(record: CallRecord, slot: Slot) -> None:
    """Keep no calls."""


def keep_in(*places: Keep) -> Keep:
    """Keep calls in several places."""

    def keep(record: CallRecord, slot: Slot) -> None:
        for place in places:
            place(record, slot)

    return keep


@dataclass
class Call:
    """A session and what it needs to act: `outbox` holds what to send; None asks to close the socket."""

    session: CallSession
    reservation: Reservation
    log: CallLog
    observer: CallObserver
    recorder: CallRecorder | None = None
    outbox: asyncio.Queue[PlayoutCommand | None] = field(default_factory=lambda: asyncio.Queue(OUTBOX_MESSAGES))
    timer: asyncio.TimerHandle | None = None
    timer_s: float = 0.0
    """When it goes off."""


class Switchboard:
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
        self._calls: dict[Slot, Call] = {}
        self._records: deque[CallRecord] = deque(maxlen=RECORDS_KEPT)
        self._draining = False
        self._loss = ""
        self.tallies = Tallies()
        """What took how long, of all calls so far."""
        self.ends: Counter[EndReason] = Counter()
        """How many calls ended for which reason."""
        self._counts: Counter[str] = Counter()
        self.open = False
        """Whether calls are taken: from `open_lines` on, until it drains or stops."""
        self.on_free: Callable[[], None] = lambda: None
        """Called when a slot has come free."""
        self.quiet = asyncio.Event()
        """Set while no call is on."""
        self.quiet.set()
        self.processing_s = 0.0
        """What the workers lately took for a frame, from the caller's PCM to Moshi's, on average."""
        self.sway_s = 0.0
        """By how much a frame lately took longer than that: a maximum that fades."""

    def open_lines(self, slots: int, processing_s: float) -> None:
        """Take calls from now on, `slots` at once; the workers take `processing_s` for a frame."""
        self._admission = Admission(slots)
        self.open = not self._draining
        self.processing_s, self.sway_s = processing_s, processing_s * LIKELY_SWAY

    @property
    def ready(self) -> bool:
        """Whether a call could be taken now."""
        return self.open and self._workers_ready() and self._admission.free_slots > 0

    @property
    def pipeline(self) -> str:
        """`ready`, or `starting`, or why the last pipeline was lost while the next one starts."""
        return "ready" if self._workers_ready() else self._loss or "starting"

    @property
    def draining(self) -> bool:
        """Whether the service is to stop."""
        return self._draining

    @property
    def calls_on(self) -> int:
        """How many slots are reserved or in use."""
        return len(self._calls)

    @property
    def slots(self) -> int:
        """How many calls can be on at once; 0 until `open_lines`."""
        return self._admission.slots

    @property
    def free_slots(self) -> int:
        return self._admission.free_slots

    @property
    def counts(self) -> Counter[str]:
        """What all calls so far have counted, by name, those that are on included."""
        total = self._counts.copy()
        for call in self._calls.values():
            call.session.add_counts(total)
        return total

    @property
    def states(self) -> Counter[State]:
        """How many of the calls that are on have come how far."""
        return Counter(call.session.state for call in self._calls.values())

    @property
    def phase_s(self) -> float | None:
        """When the next frame of a live call becomes complete: the beat for a new call; None without one."""
        now = self._now()
        return next((moment for call in self._calls.values() if (moment := call.session.phase_s(now))), None)

    def records(self) -> list[CallRecord]:
        """The calls that are on, and the last ones that were, oldest first."""
        return [*self._records, *(call.session.record for call in self._calls.values())]

    def record(self, call_sid: CallSid) -> CallRecord | None:
        """Return the last record of a call, None if it is not known any more."""
        return next((record for record in reversed(self.records()) if record.call_sid == call_sid), None)

    @property
    def calls(self) -> list[Call]:
        """What is on, whoever rang first first."""
        return sorted(self._calls.values(), key=lambda call: call.reservation.epoch)

    def calls_of(self, call_sid: CallSid) -> list[Call]:
        """Return what is on of a phone call."""
        return [call for call in self._calls.values() if call.session.record.call_sid == call_sid]

    def holds(self, call_sid: CallSid) -> bool:
        """Tell whether a slot is reserved for this call, whose socket has not come yet."""
        return self._admission.unclaimed(call_sid) is not None

    def reserve(
        self,
        call_sid: CallSid,
        greeting_frames: int | None = None,
        caller: str = "",
        called: str = "",
        direction: str = "",
        record: bool = False,
    ) -> Reservation | None:
        """Hold a slot for a call that rings, and start its greeting; None when no call can be taken.

        `greeting_frames` may shorten the greeting of the settings: the workers hold no more silence ready. `record`
        asks for a recording.
        """
        if held := self._admission.unclaimed(call_sid):
            self._calls[held.slot].session.record.note_parties(caller, called, direction)
            return held
        if not self.ready:
            return None
        now = self._now()
        reservation = self._admission.reserve(call_sid, now)
        assert reservation is not None
        greeting_steps = self._settings.greeting_steps
        limits = CallLimits(
            greeting_steps if greeting_frames is None else min(greeting_frames, greeting_steps),
            TTL_S,
            self._settings.max_call_seconds,
            self.processing_s,
            min(max(FIRST_SWAY_S, self.sway_s), MOST_SWAY_S),
            self._settings.idle_seconds,
            self._settings.hangup_digit,
        )
        session = CallSession(call_sid, self._settings.twilio_account_sid, limits, now, self.tallies)
        session.record.note_parties(caller, called, direction)
        observer, recorder = CallObserver(self.events, session.record), self._record(session.record, record)
        call = Call(session, reservation, CallLog(log, call_sid), observer, recorder)
        self._calls[reservation.slot] = call
        self.quiet.clear()
        self._send(Open(reservation.slot, reservation.epoch, limits.greeting_frames, seed=self._settings.seed))
        self._set_timer(call)
        self._keep(session.record, reservation.slot)
        call.log.info("slot %d reserved", reservation.slot)
        return reservation

    def claim(self, token: str) -> Call | None:
        """Give the call of this token its socket; None if the token is unknown, used or expired."""
        reservation = self._admission.claim(token, self._now())
        call = self._calls.get(reservation.slot) if reservation else None
        if call:
            call.session.socket_opened(self._now())
            self._set_timer(call)
        return call

    def take_event(self, call: Call, event: Event) -> None:
        """Take one of Twilio's events."""
        now = self._now()
        if isinstance(event, DtmfPressed):
            call.log.info("key %.1s", event.digit if self._settings.log_digits else "*")
        commands = call.session.receive(event, now, self.phase_s)
        call.observer.note_event(event, now)
        if call.recorder:
            call.recorder.note_event(event, call.session, now)
        self.do(call, commands)

    def do(self, call: Call, commands: list[Command]) -> None:
        """Carry out what a session decided."""
        for command in commands:
            match command:
                case SendAudio() | SendMark() | ClearAudio():
                    self._put(call, command)
                case Listen(seq, pcm):
                    self._send(Frame(call.reservation.slot, call.reservation.epoch, seq, pcm))
                case End():
                    self._finish(call, command)
        self._set_timer(call)

    def hang_up(self, call_sid: CallSid) -> bool:
        """End a call once what Moshi has said is heard, as an operator wishes; False if it is not on."""
        calls = self.calls_of(call_sid)
        for call in calls:
            self.do(call, call.session.wind_up(EndReason.OPERATOR, self._now()))
        return bool(calls)

    def end(self, call: Call, reason: EndReason, detail: str = "") -> None:
        """End one call from outside its session."""
        self.do(call, call.session.end(reason, self._now(), detail))

    def take_message(self, message: PipelineMessage) -> None:
        """Take what came round the ring."""
        call = self._calls.get(message.slot)
        if call is None or call.reservation.epoch != message.epoch:
            return
        match message:
            case Frame():
                self._note_processing(message)
                call.observer.note_frame(message, self._now())
                if call.recorder:
                    call.recorder.note_frame(message)
                self.do(call, call.session.take_frame(message, self._now()))
            case Failed(_, _, stage, reason, internal):
                self.end(call, EndReason.INTERNAL if internal else EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def lose_pipeline(self, reason: str) -> None:
        """End all calls: the pipeline is lost."""
        self._loss = reason
        for call in list(self._calls.values()):
            self.end(call, EndReason.WORKER_LOST, reason)

    def drain(self) -> None:
        """Take no more calls."""
        self._draining, self.open = True, False

    def wind_up(self) -> None:
        """End the calls that are on once what Moshi has said is heard."""
        for call in list(self._calls.values()):
            self.do(call, call.session.wind_up(EndReason.SHUTDOWN, self._now()))

    def stop(self) -> None:
        """Take no more calls and end those that are on."""
        self.drain()
        for call in list(self._calls.values()):
            self.end(call, EndReason.SHUTDOWN)
        self.events.close()

    def _put(self, call: Call, command: PlayoutCommand) -> None:
        try:
            call.outbox.put_nowait(command)
        except asyncio.QueueFull:
            self.end(call, EndReason.SOCKET_BLOCKED)
        else:
            call.observer.note_sent(command, self._now())
            if call.recorder:
                call.recorder.note_sent(command, call.session)

    def _finish(self, call: Call, end: End) -> None:
        reservation = call.reservation
        if call.timer:
            call.timer.cancel()
        del self._calls[reservation.slot]
        self._records.append(call.session.record)
        if len(self._records) > RECORDS_WITH_SPANS:
            self._records[-RECORDS_WITH_SPANS - 1].spans.clear()
        self._send(Close(reservation.slot, reservation.epoch))
        self._admission.release(reservation)
        if call.recorder:
            keep_again = partial(self._keep, call.session.record, reservation.slot)
            call.recorder.when_broken = partial(asyncio.get_running_loop().call_soon_threadsafe, keep_again)
            call.recorder.note_end(self._now())
        self.ends[end.reason] += 1
        self._counts += call.session.record.counts
        self._keep(call.session.record, reservation.slot)
        while not call.outbox.empty():  # nobody will hear it, and after `stop` it may not be sent
            call.outbox.get_nowait()
        call.outbox.put_nowait(None)
        call.observer.note_end(end, self._now())
        self._tell_end(call, end)
        if not self._calls:
            self.quiet.set()
        self.on_free()

    def _tell_end(self, call: Call, end: End) -> None:
        counts = dict(call.session.record.counts)
        level = logging.WARNING if end.reason in ERRORS else logging.INFO
        facts = {"end": end.reason.name.lower(), "counts": counts}
        detail = f" ({end.detail})" if end.detail else ""
        call.log.log(level, "ended: %s%s %s", end.reason, detail, counts, extra={"facts": facts})

    def _set_timer(self, call: Call) -> None:
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

    def _handle_timer(self, call: Call) -> None:
        call.timer = None
        self.do(call, call.session.handle_timer(self._now()))

    def _note_processing(self, frame: Frame) -> None:
        if len(frame.spans) == len(("encode", "step", "decode")):
            took_s = frame.spans[-1].ended_s - frame.spans[0].started_s
            self.sway_s = max(took_s - self.processing_s, SWAY_FADING * self.sway_s)
            self.processing_s += NEWS * (took_s - self.processing_s)
