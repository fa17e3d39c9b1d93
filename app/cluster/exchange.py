"""Nodes answer each other's webhooks: ask all, take the freest."""

import logging
import time

from app.calls.admission import VoiceRequest
from app.calls.manager import CallManager
from app.calls.record import LOST_ENDS, EndReason
from app.calls.router import CallRouter, again_of
from app.cluster.bus import Bus
from app.cluster.log_store import LEADER_WITHIN_S, LogStore
from app.cluster.member import Member
from app.cluster.messages import Ask, Hook, Offer, Take, Taken
from app.cluster.placement import ASK_WITHIN_S, TAKE_WITHIN_S, Asked
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.form import Form
from workers.histogram import Histogram

log = logging.getLogger(__name__)

ATTEMPTS = 4
ASK_OF_CALL_WITHIN_S = 0.3
"""How long all are asked of a call that is on: better late than without its memory."""
READ_WITHIN_S, RESUME_WITHIN_S = 1.0, LEADER_WITHIN_S + 2.0
"""How long a node may take that has to read a token log first; the latter one that has said that it is there. Twilio
waits 15 s for an answer.
"""


class Exchange:
    """Both ends of `slots.ask` and `slots.take`, for one node."""

    def __init__(self, bus: Bus, member: Member, logs: LogStore, manager: CallManager, router: CallRouter) -> None:
        self._bus, self._member, self._logs, self._manager, self._router = bus, member, logs, manager, router
        self.moves_s = Histogram()
        """How long it took to answer for calls that come from another node."""
        self.taken = 0
        """Webhooks that another node has answered for this one."""

    async def subscribe(self) -> None:
        await self._bus.subscribe("slots.ask", Ask, self._on_ask)
        await self._bus.subscribe(f"slots.take.{self._member.name}", Take, self._on_take)

    async def ask(self, call_sid: CallSid, within_s: float = ASK_WITHIN_S) -> Asked:
        """Return what the live nodes offer, of those that answer in time."""
        directory = self._member.directory
        live, owner = directory.live(time.monotonic()), directory.owner(call_sid)
        asked = Asked(call_sid, {seen.beat.node: seen.beat for seen in live}, owner.node if owner else "")
        for _ in range(ATTEMPTS):
            await self._bus.ask_all("slots.ask", Ask(call=call_sid), Offer, within_s, asked.add)
            if asked.offers:
                break
        return asked

    async def place(self, asked: Asked, take: Take) -> str | None:
        """Return the answer of the first node that takes the call, None if none does.

        A node that has not answered in time, though it lives, may do so the next time; it may have taken the call. Each
        node is given a higher epoch than the one before, so that it alone keeps the call in the end.
        """
        tried = 0
        for attempt in range(ATTEMPTS):
            if attempt:
                asked = await self.ask(take.call, ASK_OF_CALL_WITHIN_S if take.resumes else ASK_WITHIN_S)
            owner = self._member.directory.owner(take.call)
            newest = max(asked.epoch, owner.epoch if owner else 0)
            candidates = asked.candidates(take.hook is Hook.AFTER_STREAM)
            if not candidates and asked.is_complete:
                return None
            for node in candidates:
                tried += 1
                request = take.model_copy(update={"epoch": newest + tried, "newest": newest})
                read_s = RESUME_WITHIN_S if node in asked.offers else READ_WITHIN_S
                within_s = read_s if take.resumes else TAKE_WITHIN_S
                if answer := await self._take(node, request, within_s):
                    return answer
        return None

    async def _take(self, node: str, take: Take, within_s: float) -> str | None:
        taken = await self._bus.request(f"slots.take.{node}", take, Taken, within_s)
        if taken is None or not _is_twiml(taken.twiml):
            return None
        self.taken += node != self._member.name
        return taken.twiml

    async def _on_ask(self, ask: Ask, reply: str) -> None:
        manager = self._manager
        free, draining = manager.free_slots if manager.ready else 0, manager.draining
        holds = self._member.holds(ask.call)
        await self._bus.publish(reply, Offer(node=self._member.name, free=free, draining=draining, holds=holds))

    async def _on_take(self, take: Take, reply: str) -> None:
        started_s, moved = time.monotonic(), self._member.moved
        answer = await self.answer_here(take)
        if self._member.moved > moved:
            self.moves_s.add(time.monotonic() - started_s)
        self._member.announce()
        await self._bus.publish(reply, Taken(node=self._member.name, twiml=answer or ""))

    async def answer_here(self, take: Take) -> str | None:
        """Answer a webhook with a slot of this node; None if there is none for it."""
        form = Form(take.call, take.form, take.query)
        holds = self._member.holds(take.call)
        try:
            if holds is not None and holds >= take.newest:
                if self._manager.holds(take.call):  # reserved late: another node may have the call too
                    self._member.own(take.call, max(holds, take.epoch))
                return self._answer_known(take, form)
            return await self._answer_new(take, form)
        except ValueError as error:
            log.warning("the voice URL's query: %s", error)
            return None

    def _answer_known(self, take: Take, form: Form) -> str | None:
        """Answer for a call that is on here, or was until now."""
        if take.hook is Hook.VOICE:
            answer = self._router.settle(form, take.token, known=True)
            return answer or self._router.put_through(form, take.token)
        record = self._manager.record(take.call)
        if self._manager.draining and record and record.end in (None, EndReason.SHUTDOWN, *LOST_ENDS):
            return None  # another node goes on with it
        return self._router.bring_back(form, take.token)

    async def _answer_new(self, take: Take, form: Form) -> str | None:
        """Answer for a call that no live node has: it may have had another one, from whose log it goes on."""
        epoch, conversation = await self._logs.read(take.call) if take.resumes and self._manager.resumes else (0, None)
        again = again_of(form) if take.hook is Hook.AFTER_STREAM else 0
        if again is None or (take.hook is Hook.AFTER_STREAM and conversation is None):
            return twiml.hangup()
        if conversation and conversation.header.checkpoint != self._member.checkpoint():
            log.warning("%s began on another checkpoint: it does not go on here", take.call)
            return None
        if not self._manager.ready:
            return None
        if stale := self._manager.call(take.call):
            stale.end(EndReason.REPLACED, "it has been on at another node since")
        self._member.own(take.call, max(take.epoch, epoch + 1))
        if conversation:
            request = VoiceRequest(caller=form.caller, called=form.called, direction=form.direction)
            self._member.on_moved(take.call, take.came_from, conversation.steps)
            self._manager.restore(take.call, conversation, request)
        return self._router.put_through(form, take.token, again)


def _is_twiml(text: str) -> bool:
    if not text:
        return False
    try:
        return bool(twiml.parse(text))
    except twiml.TwimlError:
        return False
