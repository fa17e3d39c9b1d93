"""Connects calls with the workers: the one place that knows which session sits in which slot.

It carries out what the sessions decide. Everything here runs on the event loop and never waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from app.call.admission import TTL_S, Admission, Reservation
from app.call.lead import FIRST_SWAY_S
from app.call.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.call.record import CallRecord, EndReason
from app.call.session import CallLimits, CallSession, Command, End, Listen
from app.config import Settings
from app.log import CallLog
from app.twilio.events import CallSid
from workers.messages import Close, Failed, Frame, Open, RingMessage, Slot
from workers.ring import WorkerName

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


@dataclass
class Call:
    """A session and what it needs to act: `outbox` holds what to send; None asks to close the socket."""

    session: CallSession
    reservation: Reservation
    log: CallLog
    outbox: asyncio.Queue[PlayoutCommand | None] = field(default_factory=lambda: asyncio.Queue(OUTBOX_MESSAGES))
    timer: asyncio.TimerHandle | None = None
    timer_s: float = 0.0
    """When it goes off."""


class Switchboard:
    """All calls of this machine.

    `send` passes a message to the workers, `workers_ready` tells whether they are warm, `keep` puts a call that begins
    and one that has ended into the call log.
    """

    def __init__(
        self,
        settings: Settings,
        send: Callable[[RingMessage], None],
        workers_ready: Callable[[], bool],
        keep: Keep = keep_nothing,
    ) -> None:
        self._keep = keep
        self._settings = settings
        self._send = send
        self._workers_ready = workers_ready
        self._admission = Admission(0)
        self._calls: dict[Slot, Call] = {}
        self._records: deque[CallRecord] = deque(maxlen=RECORDS_KEPT)
        self._stopping = False
        self.processing_s = 0.0
        """What the workers lately took for a frame, from the caller's PCM to Moshi's, on average."""
        self.sway_s = 0.0
        """By how much a frame lately took longer than that: a maximum that fades."""

    def open_lines(self, slots: int, processing_s: float) -> None:
        """Take calls from now on, `slots` at once; the workers take `processing_s` for a frame."""
        self._admission = Admission(slots)
        self.processing_s, self.sway_s = processing_s, processing_s * LIKELY_SWAY

    @property
    def ready(self) -> bool:
        """Whether a call could be taken now."""
        return not self._stopping and self._workers_ready() and self._admission.free_slots > 0

    @property
    def free_slots(self) -> int:
        return self._admission.free_slots

    @property
    def phase_s(self) -> float | None:
        """When the next frame of a live call becomes complete: the beat for a new call; None without one."""
        now = _now()
        return next((moment for call in self._calls.values() if (moment := call.session.phase_s(now))), None)

    def records(self) -> list[CallRecord]:
        """The calls that are on, and the last ones that were, oldest first."""
        return [*self._records, *(call.session.record for call in self._calls.values())]

    def reserve(self, call_sid: CallSid, caller: str = "", called: str = "", direction: str = "") -> Reservation | None:
        """Hold a slot for a call that rings, and start its greeting; None when no call can be taken."""
        if held := self._admission.unclaimed(call_sid):
            return held
        if not self.ready:
            return None
        now = _now()
        reservation = self._admission.reserve(call_sid, now)
        assert reservation is not None
        limits = CallLimits(
            self._settings.greeting_steps,
            TTL_S,
            self._settings.max_call_seconds,
            self.processing_s,
            min(max(FIRST_SWAY_S, self.sway_s), MOST_SWAY_S),
        )
        session = CallSession(call_sid, self._settings.twilio_account_sid, limits, now)
        session.record.caller, session.record.called, session.record.direction = caller, called, direction
        call = Call(session, reservation, CallLog(log, call_sid))
        self._calls[reservation.slot] = call
        self._send(Open(reservation.slot, reservation.epoch, limits.greeting_frames, seed=self._settings.seed))
        self._set_timer(call)
        self._keep(session.record, reservation.slot)
        call.log.info("slot %d reserved", reservation.slot)
        return reservation

    def claim(self, token: str) -> Call | None:
        """Give the call of this token its socket; None if the token is unknown, used or expired."""
        reservation = self._admission.claim(token, _now())
        call = self._calls.get(reservation.slot) if reservation else None
        if call:
            call.session.socket_opened(_now())
            self._set_timer(call)
        return call

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

    def end(self, call: Call, reason: EndReason, detail: str = "") -> None:
        """End one call from outside its session."""
        self.do(call, call.session.end(reason, _now(), detail))

    def take_message(self, message: RingMessage) -> None:
        """Take what came round the ring."""
        call = self._calls.get(message.slot)
        if call is None or call.reservation.epoch != message.epoch:
            return
        match message:
            case Frame():
                self._note_processing(message)
                self.do(call, call.session.take_frame(message, _now()))
            case Failed(_, _, stage, reason):
                self.end(call, EndReason.STAGE_FAILED, f"{stage}: {reason}")

    def lose_worker(self, name: WorkerName, codecs: int) -> None:
        """End the calls that a dead worker served; the engine served all."""
        stage, index = name
        for call in list(self._calls.values()):
            if stage == "step" or call.reservation.slot % codecs == index:
                self.end(call, EndReason.WORKER_LOST, f"{stage}-{index}")

    def stop(self) -> None:
        """Take no more calls and end those that are on."""
        self._stopping = True
        for call in list(self._calls.values()):
            self.end(call, EndReason.SHUTDOWN)

    def _put(self, call: Call, command: PlayoutCommand) -> None:
        try:
            call.outbox.put_nowait(command)
        except asyncio.QueueFull:
            self.end(call, EndReason.SOCKET_BLOCKED)

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
        self._keep(call.session.record, reservation.slot)
        while not call.outbox.empty():  # nobody will hear it, and after `stop` it may not be sent
            call.outbox.get_nowait()
        call.outbox.put_nowait(None)
        counts = dict(call.session.record.counts)
        call.log.info("ended: %s%s %s", end.reason, f" ({end.detail})" if end.detail else "", counts)

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
            call.timer = asyncio.get_running_loop().call_later(due_s - _now(), self._handle_timer, call)

    def _handle_timer(self, call: Call) -> None:
        call.timer = None
        self.do(call, call.session.handle_timer(_now()))

    def _note_processing(self, frame: Frame) -> None:
        if len(frame.spans) == len(("encode", "step", "decode")):
            took_s = frame.spans[-1].ended_s - frame.spans[0].started_s
            self.sway_s = max(took_s - self.processing_s, SWAY_FADING * self.sway_s)
            self.processing_s += NEWS * (took_s - self.processing_s)


def _now() -> float:
    return time.monotonic()  # the loop's own time is rounded to milliseconds by uvloop
