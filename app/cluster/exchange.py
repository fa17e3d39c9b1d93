"""Nodes answer each other's webhooks: ask all, choose the freest."""

import logging
import time

from app.calls.admission import VoiceRequest
from app.calls.end_reason import LOST_ENDS, EndReason
from app.calls.manager import CallManager
from app.calls.router import CallRouter, again_of
from app.cluster.bus import Bus
from app.cluster.log_store import LEADER_WITHIN_S, LogStore
from app.cluster.member import Member
from app.cluster.messages import Ask, Hook, Offer, PlaceAnswer, PlaceRequest
from app.cluster.placement import ASK_WITHIN_S, PLACE_WITHIN_S, Asked
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.form import Form
from workers.histogram import Histogram

log = logging.getLogger(__name__)

ATTEMPTS = 4
ASK_OF_CALL_WITHIN_S = 0.3
"""How long all are asked of a call that is on: better late than without its memory."""
READ_WITHIN_S, RESUME_WITHIN_S = 1.0, LEADER_WITHIN_S + 2.0
"""The limits of a node that has to read a token log first; the longer one if it has sent an offer. Twilio waits 15 s
for an answer.
"""


class Exchange:
    """Both ends of `slots.ask` and `slots.take`, for one node."""

    def __init__(self, bus: Bus, member: Member, logs: LogStore, manager: CallManager, router: CallRouter) -> None:
        self._bus, self._member, self._logs, self._manager, self._router = bus, member, logs, manager, router
        self.moves_s = Histogram()
        """The times of answers for calls that come from another node."""
        self.placed_elsewhere = 0
        """Webhooks that another node has answered for this one."""

    async def subscribe(self) -> None:
        await self._bus.subscribe("slots.ask", Ask, self._on_ask)
        await self._bus.subscribe(f"slots.take.{self._member.name}", PlaceRequest, self._on_place)

    async def ask(self, call_sid: CallSid, within_s: float = ASK_WITHIN_S) -> Asked:
        """Return what the live nodes offer, of those that answer in time."""
        directory = self._member.directory
        live, owner = directory.live(time.monotonic()), directory.owner(call_sid)
        asked = Asked(call_sid, {seen.heartbeat.node: seen.heartbeat for seen in live}, owner.node if owner else "")
        for _ in range(ATTEMPTS):
            await self._bus.ask_all("slots.ask", Ask(call=call_sid), Offer, within_s, asked.add)
            if asked.offers:
                break
        return asked

    async def place(self, asked: Asked, request: PlaceRequest) -> str | None:
        """Return the answer of the first node that has a slot for the call, None if none has.

        A live node that has not answered in time may do so the next time; it may have reserved a slot. Each node is
        given a higher epoch than the one before, so that it alone keeps the call in the end.
        """
        tried = 0
        for attempt in range(ATTEMPTS):
            if attempt:
                asked = await self.ask(request.call, ASK_OF_CALL_WITHIN_S if request.resumes else ASK_WITHIN_S)
            owner = self._member.directory.owner(request.call)
            newest = max(asked.epoch, owner.epoch if owner else 0)
            candidates = asked.candidates(request.hook is Hook.AFTER_STREAM)
            if not candidates and asked.is_complete:
                return None
            for node in candidates:
                tried += 1
                numbered = request.model_copy(update={"epoch": newest + tried, "newest": newest})
                read_s = RESUME_WITHIN_S if node in asked.offers else READ_WITHIN_S
                within_s = read_s if request.resumes else PLACE_WITHIN_S
                if answer := await self._request(node, numbered, within_s):
                    return answer
        return None

    async def _request(self, node: str, request: PlaceRequest, within_s: float) -> str | None:
        answer = await self._bus.request(f"slots.take.{node}", request, PlaceAnswer, within_s)
        if answer is None or not _is_twiml(answer.twiml):
            return None
        self.placed_elsewhere += node != self._member.name
        return answer.twiml

    async def _on_ask(self, ask: Ask, reply: str) -> None:
        manager = self._manager
        free, draining = manager.free_slots if manager.ready else 0, manager.draining
        holds = self._member.holds(ask.call)
        await self._bus.publish(reply, Offer(node=self._member.name, free=free, draining=draining, holds=holds))

    async def _on_place(self, request: PlaceRequest, reply: str) -> None:
        started_s, moved = time.monotonic(), self._member.moved
        answer = await self.answer_here(request)
        if self._member.moved > moved:
            self.moves_s.add(time.monotonic() - started_s)
        self._member.announce()
        await self._bus.publish(reply, PlaceAnswer(node=self._member.name, twiml=answer or ""))

    async def answer_here(self, request: PlaceRequest) -> str | None:
        """Answer a webhook with a slot of this node; None if there is none for it."""
        form = request.as_form()
        holds = self._member.holds(request.call)
        try:
            if holds is not None and holds >= request.newest:
                return self._answer_known(request, form)
            return await self._answer_new(request, form)
        except ValueError as error:
            log.warning("the voice URL's query: %s", error)
            return None

    def _answer_known(self, request: PlaceRequest, form: Form) -> str | None:
        """Answer for a call that is on here, or was until now."""
        if self._manager.holds(request.call):  # reserved late: another node may have the call too
            self._member.own(request.call, max(self._member.epoch(request.call), request.epoch))
        if request.hook is Hook.VOICE:
            answer = self._router.settle(form, request.token, known=True)
            return answer or self._router.put_through(form, request.token)
        record = self._manager.record(request.call)
        if self._manager.draining and record and record.end in (None, EndReason.SHUTDOWN, *LOST_ENDS):
            return None  # another node goes on with it
        return self._router.bring_back(form, request.token)

    async def _answer_new(self, request: PlaceRequest, form: Form) -> str | None:
        """Answer for a call that no live node has: it may have had another one, from whose log it goes on."""
        stale = self._manager.call(request.call)
        reads = request.resumes and self._manager.resumes and self._bus.is_connected
        epoch, conversation = await self._logs.read(request.call) if reads else (0, None)
        call = self._manager.call(request.call)
        if call and call is not stale:  # another webhook of the call was answered meanwhile
            return self._answer_known(request, form)
        if conversation and conversation.header.checkpoint != self._member.checkpoint():
            checkpoint = conversation.header.checkpoint
            if self._member.is_loaded_elsewhere(checkpoint):
                return None
            log.warning("%s began on a checkpoint that no node has: it begins anew", request.call)
            conversation = None
        again = again_of(form) if request.hook is Hook.AFTER_STREAM else 0
        if again is None or (request.hook is Hook.AFTER_STREAM and conversation is None):
            return twiml.hangup()
        if not self._manager.ready:
            return None
        if call:
            call.end(EndReason.REPLACED, "it has been on at another node since")
        self._member.own(request.call, max(request.epoch, epoch + 1))
        if conversation:
            self._member.on_moved(request.call, request.came_from, conversation.steps)
            known = VoiceRequest(
                caller=form.caller,
                called=form.called,
                direction=form.direction,
                record=conversation.header.record,
            )
            self._manager.restore(request.call, conversation, known)
        return self._router.put_through(form, request.token, again)


def _is_twiml(text: str) -> bool:
    if not text:
        return False
    try:
        return bool(twiml.parse(text))
    except twiml.TwimlError:
        return False
