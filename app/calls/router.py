"""The answer to each voice webhook: connect, queue or reject. Twilio's forms in, TwiML out.

Theory of operation. One phone call (CallSid) may ask for a stream several times. Twilio or a proxy repeats a webhook;
and a call comes back after played keys, a transfer, or a lost stream. It has one record and at most one slot:

- Before its socket has come, every webhook of a call gets the same answer.
- A webhook on whose answer Twilio has acted already (the same I-Twilio-Idempotency-Token, or a call that is said to
  ring although it had a socket) and one of a call that Twilio has said to be over get the old answer, or `<Hangup/>`
  when no stream is on: Twilio has no use for it.
- Any other webhook while a stream is on may be a repeat, or a call that comes back before we notice that its stream is
  lost. It gets no slot: its token stands by. If a socket comes with it, the old stream ends and its slot goes over.
- After the end of its stream a call comes back to a new slot. It is not screened and counted a second time. Moshi goes
  on with what it knew, without a greeting, as long as the manager keeps the conversation.
- When a stream is over Twilio asks the `action` of its `<Connect>`. A stream that was lost gets another one, at most
  `MOST_AGAIN` times in a row by the counter in that URL, which Twilio signs; any other end is the end of the call.
- A call that is answered already (one that we placed, or that comes back) gets no busy tone: `<Hangup/>`.
"""

import logging
import time
from collections import Counter
from dataclasses import replace
from enum import StrEnum

from app.calls.admission import VoiceRequest
from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.screening import Screening, parse_patterns
from app.calls.session import CallState
from app.config import Settings, WhenBusy
from app.logging import CallLogger, mask_number
from app.twilio import twiml
from app.twilio.errors import explain
from app.twilio.events import CallSid
from app.twilio.form import Form, parse_count
from app.twilio.public_address import PublicAddress
from app.twilio.signature import socket_url
from app.twilio.status import STREAM_ERROR, CallStatusCallback, StreamStatusCallback, parse_status
from app.twilio.voice_query import (
    MACHINES,
    again_query,
    read_again,
    read_greeting_frames,
    read_persona,
    read_prompt,
    reads_record,
)

log = logging.getLogger(__name__)

MOST_AGAIN = 5
"""How often a call whose stream is lost is brought back."""
HANGUP = "hangup"
"""`QueueResult` of a queued caller who has hung up."""
RINGING, IN_PROGRESS, COMPLETED = "ringing", "in-progress", "completed"
"""`CallStatus` of a webhook: not answered, answered, over."""
CONNECTED = ("completed", "answered")
"""`DialCallStatus` of a transfer to somebody who has answered."""


class RejectReason(StrEnum):
    BUSY = "busy"
    NOT_READY = "not_ready"
    SCREENED = "screened"
    MACHINE = "machine"


WHY_NO_SLOT = {
    RejectReason.BUSY: "all lines of the bridge were taken",
    RejectReason.NOT_READY: "the bridge was not ready",
}


def again_of(form: Form) -> int | None:
    """Return which time it is that a call is brought back, None if it was too often."""
    again = read_again(form.query)
    return None if again is None or again >= MOST_AGAIN else again + 1


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
        if settled := self.settle(form, webhook_token):
            return settled
        known = self.is_known(form)
        answer = self.put_through(form, webhook_token) or self._queue(form, self.request(form, webhook_token))
        if answer and not known:
            self.on_admitted(form)
        return answer or self.reject(form)

    def settle(self, form: Form, webhook_token: str = "", known: bool = False) -> str | None:
        """Return the answer to a voice webhook that needs no slot: of a machine, a repeat, an unwanted caller.

        A call that is `known` elsewhere is not screened again. Raises ValueError for an invalid query.
        """
        self.request(form, webhook_token)
        if form.fields.get("AnsweredBy") in MACHINES:
            CallLogger(log, form.call_sid).info("answered by a machine, hanging up")
            self.rejected[RejectReason.MACHINE] += 1
            return twiml.hangup()
        record = self._manager.record(form.call_sid)
        if record and (record.over or record.is_repeat(webhook_token, form.fields.get("CallStatus") == RINGING)):
            return self._answer_repeat(form)
        known = known or self.is_known(form)
        refusal = None if known else self._screening.refusal(form.caller, time.monotonic())
        if refusal:
            CallLogger(log, form.call_sid).info("call from %s rejected: %s", mask_number(form.caller), refusal)
            self.rejected[RejectReason.SCREENED] += 1
            return twiml.reject_caller()
        return None

    def put_through(self, form: Form, webhook_token: str = "", again: int = 0) -> str | None:
        """Reserve a slot of this machine, unless the call has one; return the answer, None without a free slot.

        `again` is how often the call has been brought back.
        """
        self._call_queue.reserve_next()
        return self._put_through(form, self.request(form, webhook_token), again)

    def on_admitted(self, form: Form) -> None:
        """Count a new call that has been accepted, for the limit of calls per number."""
        self._screening.add(form.caller, time.monotonic())

    def after_stream(self, form: Form, webhook_token: str = "") -> str:
        """Answer when a stream is over: with the next one if it was lost, else hang up."""
        if answer := self.bring_back(form, webhook_token):
            return answer
        request = self._manager.lost(form.call_sid) or self.request(form, webhook_token)
        return self._queue(form, request) or self.reject(form)

    def bring_back(self, form: Form, webhook_token: str = "") -> str | None:
        """Do so if this machine can; None without a free slot."""
        call_log, again = CallLogger(log, form.call_sid), again_of(form)
        if is_over := form.fields.get("CallStatus") == COMPLETED:
            self._manager.forget(form.call_sid)
        request = None if is_over else self._manager.lost(form.call_sid)
        if request is None or again is None:
            call_log.info("stream is over, hanging up")
            return twiml.hangup()
        record = self._manager.record(form.call_sid)
        if webhook_token and record and record.is_repeat(webhook_token, is_ringing=False):
            return self._answer_repeat(form, again)
        call_log.info("the stream was lost, the call is brought back: %d of %d", again, MOST_AGAIN)
        self._call_queue.reserve_next()
        return self._put_through(form, replace(request, webhook_token=webhook_token), again)

    def wait(self, form: Form) -> str:
        return self._call_queue.page(form.call_sid, self.request(form))

    def after_wait(self, form: Form) -> str:
        """Answer when a caller has left Twilio's queue, for whatever reason."""
        result = form.fields.get("QueueResult", "")
        CallLogger(log, form.call_sid).info("left the queue: %a", result[:20])
        self._call_queue.leave(form.call_sid)
        if result == HANGUP:
            self._end(form.call_sid, EndReason.CALLER_HUNG_UP, "while waiting", CallState.RESERVED)
        holds = self._manager.holds(form.call_sid)
        return (holds and self._put_through(form, self.request(form))) or twiml.hangup()

    def after_dial(self, form: Form, webhook_token: str = "") -> str:
        """Answer when a transfer is over: the call ends, or is back because nobody has answered."""
        return twiml.hangup() if self.on_dialled(form) else self.answer(form, webhook_token)

    def on_dialled(self, form: Form) -> bool:
        """Record how a transfer ended; tell whether the call is over: answered, or the caller has hung up."""
        status, duration = (form.fields.get(f"DialCall{name}", "")[:20] for name in ("Status", "Duration"))
        CallLogger(log, form.call_sid).info("the transfer is over: %a", status)
        self._manager.end_transfer(form.call_sid, status, parse_count(duration))
        if is_over := status in CONNECTED or form.fields.get("CallStatus") == COMPLETED:
            self._manager.forget(form.call_sid)
        return is_over

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
                    self._manager.forget(form.call_sid)

    def is_known(self, form: Form) -> bool:
        """Tell whether a call was admitted before, or is one of ours."""
        record = self._manager.record(form.call_sid)
        return form.outbound or bool(record and record.streams) or form.call_sid in self._call_queue

    def request(self, form: Form, webhook_token: str = "") -> VoiceRequest:
        """Return what a voice webhook says of a call, and asks for. Raises ValueError for a wrong query."""
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

    def _answer_repeat(self, form: Form, again: int = 0) -> str:
        """Answer what Twilio has acted on already: as before, or with a hangup when the stream or the call is over."""
        CallLogger(log, form.call_sid).info("the voice webhook is repeated")
        call = self._manager.call(form.call_sid)
        return self.connect(form, call.reservation.token, again=again) if call else twiml.hangup()

    def _put_through(self, form: Form, request: VoiceRequest, again: int = 0) -> str | None:
        call = self._manager.call(form.call_sid)
        if call and call.session.state is not CallState.RESERVED:
            CallLogger(log, form.call_sid).info("the call comes again while its stream is on")
            return self.connect(form, self._manager.stand_by(call, request), again=again)
        reservation = self._manager.reserve(form.call_sid, request)
        if reservation is None:
            return None
        CallLogger(log, form.call_sid).info("call from %s", mask_number(form.caller))
        return self.connect(form, reservation.token, again=again)

    def connect(self, form: Form, token: str, media_url: str = "", again: int = 0) -> str:
        """Return the answer that connects a call to the media socket with this token, here or at `media_url`."""
        base_url = self._public.base_url
        return twiml.connect(
            socket_url(f"{media_url or self._public.media_url}/twilio/media/{token}"),
            f"{base_url}/twilio/after-stream{again_query(again)}",
            {"from": form.caller, "to": form.called},
            f"{base_url}/twilio/status",
        )

    def queues(self, form: Form) -> bool:
        """Tell whether this caller may wait when all slots are taken."""
        return self._settings.calls.when_busy is WhenBusy.QUEUE and not form.outbound

    def _queue(self, form: Form, request: VoiceRequest) -> str | None:
        if not self.queues(form) or not self._call_queue.enter(form.call_sid, request):
            return None
        return self.enqueue(form, len(self._call_queue))

    def enqueue(self, form: Form, waiting: int, query: str = "") -> str:
        """Return the answer to a call that is one of `waiting`; Twilio repeats `query` with each wait page."""
        call_log, base_url = CallLogger(log, form.call_sid), self._public.base_url
        call_log.info("no slot for %s, queued; %d wait", mask_number(form.caller), waiting)
        return twiml.enqueue(f"{base_url}/twilio/wait{query}", f"{base_url}/twilio/after-wait")

    def reject(self, form: Form) -> str:
        """Return the answer to a call for which there is no slot, and record it."""
        request = self.request(form)
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
