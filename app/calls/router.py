"""The answer to each voice webhook: connect, queue or reject. Twilio's forms in, TwiML out.

Theory of operation. One phone call (CallSid) may ask for a stream several times. Twilio or a proxy repeats a webhook;
and a call comes back after played keys, a transfer, or a lost stream. It has one record and at most one slot:

- Before its socket has come, every webhook of a call gets the same answer.
- A webhook on whose answer Twilio has acted already (the same I-Twilio-Idempotency-Token, or a call that is said to
  ring although it had a socket) and one of a call that Twilio has said to be over get the old answer, or `<Hangup/>`
  when no stream is on: Twilio has no use for it.
- Any other webhook while a stream is on may be a repeat, or a call that comes back before we notice that its stream is
  lost. It gets no slot: its token stands by. If a socket comes with it, the old stream ends and its slot goes over.
- After the end of its stream a call comes back to a new slot. It is not screened and counted a second time.
- A call that is answered already (one that we placed, or that comes back) gets no busy tone: `<Hangup/>`.
"""

import logging
import time
from collections import Counter
from enum import StrEnum

from app.calls.active_call import VoiceRequest
from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.record import EndReason
from app.calls.screening import Screening, parse_patterns
from app.calls.session import CallState
from app.config import Settings, WhenBusy
from app.logging import CallLogger, mask_number
from app.twilio import twiml
from app.twilio.errors import explain
from app.twilio.events import CallSid
from app.twilio.form import Form
from app.twilio.public_address import PublicAddress
from app.twilio.signature import socket_url
from app.twilio.status import STREAM_ERROR, CallStatusCallback, StreamStatusCallback, parse_status
from app.twilio.voice_query import MACHINES, read_greeting_frames, read_persona, read_prompt, reads_record

log = logging.getLogger(__name__)

HANGUP = "hangup"
"""`QueueResult` of a queued caller who has hung up."""
RINGING, IN_PROGRESS = "ringing", "in-progress"
"""`CallStatusCallback` of the voice webhook: not answered, answered."""


CONNECTED = ("completed", "answered")
"""`DialCallStatus` of a transfer to somebody who has answered."""


class RejectReason(StrEnum):
    """Why a call was rejected."""

    BUSY = "busy"
    NOT_READY = "not_ready"
    SCREENED = "screened"
    MACHINE = "machine"


WHY_NO_SLOT = {
    RejectReason.BUSY: "all lines of the bridge were taken",
    RejectReason.NOT_READY: "the bridge was not ready",
}


class CallRouter:
    """Decides on every call, in front of the manager and the queue."""

    def __init__(self, settings: Settings, public: PublicAddress, manager: CallManager, call_queue: CallQueue) -> None:
        self._settings = settings
        self._public = public
        self._manager = manager
        self._call_queue = call_queue
        self.rejected: Counter[RejectReason] = Counter()
        allowed, blocked = parse_patterns(settings.callers.allowed), parse_patterns(settings.callers.blocked)
        self._screening = Screening(allowed, blocked, settings.callers.per_hour)

    def answer(self, form: Form, webhook_token: str = "") -> str:
        """Answer the voice webhook of a call: a new one, one that comes back, one whose turn it is, a repeat.

        `webhook_token` is its I-Twilio-Idempotency-Token, "" for none. Raises ValueError for an invalid query.
        """
        request = self._request(form, webhook_token)
        if form.fields.get("AnsweredBy") in MACHINES:
            CallLogger(log, form.call_sid).info("answered by a machine, hanging up")
            self.rejected[RejectReason.MACHINE] += 1
            return twiml.hangup()
        record = self._manager.record(form.call_sid)
        if record and (record.over or record.is_repeat(webhook_token, form.fields.get("CallStatus") == RINGING)):
            return self._answer_repeat(form)
        known = form.outbound or bool(record and record.streams) or form.call_sid in self._call_queue
        refusal = None if known else self._screening.refusal(form.caller, time.monotonic())
        if refusal:
            CallLogger(log, form.call_sid).info("call from %s rejected: %s", mask_number(form.caller), refusal)
            self.rejected[RejectReason.SCREENED] += 1
            return twiml.reject_caller()
        self._call_queue.reserve_next()
        answer = self._put_through(form, request) or self._queue(form, request)
        if answer and not known:
            self._screening.add(form.caller, time.monotonic())
        return answer or self._reject(form, request)

    def wait(self, form: Form) -> str:
        """Answer the wait page."""
        return self._call_queue.page(form.call_sid, self._request(form))

    def after_wait(self, form: Form) -> str:
        """Answer when a caller has left Twilio's queue, for whatever reason."""
        result = form.fields.get("QueueResult", "")
        CallLogger(log, form.call_sid).info("left the queue: %a", result[:20])
        self._call_queue.leave(form.call_sid)
        if result == HANGUP:
            self._end(form.call_sid, EndReason.CALLER_HUNG_UP, "while waiting", CallState.RESERVED)
        holds = self._manager.holds(form.call_sid)
        return (holds and self._put_through(form, self._request(form))) or twiml.hangup()

    def after_dial(self, form: Form, webhook_token: str = "") -> str:
        """Answer when a transfer is over: the call ends, or is back because nobody has answered."""
        status = form.fields.get("DialCallStatus", "")[:20]
        CallLogger(log, form.call_sid).info("the transfer is over: %a", status)
        record = self._manager.record(form.call_sid)
        if record and record.transfers:
            duration = form.fields.get("DialCallDuration", "")
            record.transfers[-1].status = status
            record.transfers[-1].duration_s = int(duration) if duration.isdecimal() and len(duration) < 7 else None
        return twiml.hangup() if status in CONNECTED else self.answer(form, webhook_token)

    def handle_status(self, form: Form) -> None:
        """Record what Twilio says of a call or its stream; end the call if its stream cannot come any more."""
        call_log, status = CallLogger(log, form.call_sid), parse_status(form.fields)
        record = self._manager.record(form.call_sid)
        if record and status:
            record.on_status(status)
        match status:
            case StreamStatusCallback(event, _, code, stream_sid) if event == STREAM_ERROR:
                detail = f"{explain(code)} (Twilio: {status.error})" if code else f"{status.sentence}, without a code"
                call_log.warning("the stream failed: %s", detail)
                if not (record and record.has_started(stream_sid)):
                    self._end(form.call_sid, EndReason.NO_SOCKET, detail, CallState.RESERVED)
            case StreamStatusCallback(event):
                call_log.info("%s", event)
            case CallStatusCallback():
                call_log.info("call %s", status.status)
                if status.over:
                    self._call_queue.leave(form.call_sid)
                    self._end(form.call_sid, EndReason.CALLER_HUNG_UP, f"call {status.status}", *CallState)

    def _request(self, form: Form, webhook_token: str = "") -> VoiceRequest:
        return VoiceRequest(
            read_greeting_frames(form.query, self._settings.calls.greeting_frames),
            form.caller,
            form.called,
            form.direction,
            read_persona(form.query),
            reads_record(form.query),
            webhook_token,
            read_prompt(form.query),
        )

    def _answer_repeat(self, form: Form) -> str:
        """Answer what Twilio has acted on already: as before, or with a hangup when the stream or the call is over."""
        CallLogger(log, form.call_sid).info("the voice webhook is repeated")
        call = self._manager.call(form.call_sid)
        return self._connect(form, call.reservation.token) if call else twiml.hangup()

    def _put_through(self, form: Form, request: VoiceRequest) -> str | None:
        call = self._manager.call(form.call_sid)
        if call and call.session.state is not CallState.RESERVED:
            CallLogger(log, form.call_sid).info("the call comes again while its stream is on")
            return self._connect(form, self._manager.stand_by(call, request))
        reservation = self._manager.reserve(form.call_sid, request)
        if reservation is None:
            return None
        CallLogger(log, form.call_sid).info("call from %s", mask_number(form.caller))
        return self._connect(form, reservation.token)

    def _connect(self, form: Form, token: str) -> str:
        base_url = self._public.base_url
        return twiml.connect(
            socket_url(f"{base_url}/twilio/media/{token}"),
            f"{base_url}/twilio/after-stream",
            {"from": form.caller, "to": form.called},
            f"{base_url}/twilio/status",
        )

    def _queue(self, form: Form, request: VoiceRequest) -> str | None:
        waits = self._settings.calls.when_busy is WhenBusy.QUEUE and not form.outbound
        if not waits or not self._call_queue.enter(form.call_sid, request):
            return None
        call_log, base_url = CallLogger(log, form.call_sid), self._public.base_url
        call_log.info("no slot for %s, queued; %d wait", mask_number(form.caller), len(self._call_queue))
        return twiml.enqueue(f"{base_url}/twilio/wait", f"{base_url}/twilio/after-wait")

    def _reject(self, form: Form, request: VoiceRequest) -> str:
        CallLogger(log, form.call_sid).warning("no slot for %s", mask_number(form.caller))
        why = RejectReason.NOT_READY if self._manager.free_slots else RejectReason.BUSY
        self.rejected[why] += 1
        if form.outbound:  # somebody has answered: a busy tone would make no sense to them
            self._manager.reject(form.call_sid, request, WHY_NO_SLOT[why])
            return twiml.hangup()
        if self._settings.calls.when_busy is WhenBusy.SAY and self._manager.accepting:
            return twiml.say_busy(self._settings.calls.busy_sentence)
        return twiml.hangup() if form.fields.get("CallStatus") == IN_PROGRESS else twiml.reject_busy()

    def _end(self, call_sid: CallSid, reason: EndReason, detail: str, *states: CallState) -> None:
        """End the stream of a call if it is in one of these states."""
        call = self._manager.call(call_sid)
        if call and call.session.state in states:
            call.end(reason, detail)
