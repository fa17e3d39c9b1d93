"""The queue of all nodes, as one of them keeps it; the node that leads gives slots to the first callers."""

import asyncio
import logging
import time

from app.calls.queue import ASKS_WITHIN_S, PAUSE_S, CallRedirector, try_redirect
from app.calls.router import IN_PROGRESS
from app.cluster.bus import Bus
from app.cluster.exchange import Exchange
from app.cluster.member import Member
from app.cluster.messages import Left, PlaceRequest, Wait
from app.cluster.placement import Asked
from app.cluster.waiting import leads
from app.logging import CallLogger
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.form import Form

log = logging.getLogger(__name__)

SERVE_EVERY_S = 0.25
KNOWS_ALL_AFTER_S = PAUSE_S + 2.0
"""How long a node that has just been started does not lead: every caller has asked for a page by then."""


class ClusterQueue:
    """`voice_url` is where a caller who has a slot is sent."""

    def __init__(
        self, bus: Bus, member: Member, exchange: Exchange, redirector: CallRedirector | None, voice_url: str
    ) -> None:
        self._bus, self._member, self._exchange, self._callers = bus, member, exchange, member.callers
        self._redirector, self._voice_url = redirector, voice_url
        self._placed: dict[CallSid, tuple[Left, float]] = {}
        self._leads_from_s = time.monotonic() + KNOWS_ALL_AFTER_S

    async def subscribe(self) -> None:
        await self._bus.subscribe("line.wait", Wait, self._on_wait)
        await self._bus.subscribe("line.left", Left, self._on_left)

    async def enter(self, form: Form, since_s: float) -> None:
        """Add a caller, or renew the place of one who waits."""
        wait = Wait.of(form, since_s=since_s)
        self._on_wait(wait, "")
        await self._bus.publish("line.wait", wait)

    async def leave(self, call_sid: CallSid) -> None:
        await self._remove(Left(call=call_sid))

    def page(self, call_sid: CallSid) -> str | None:
        """Return the page of a caller who has a slot, None for one who waits."""
        left, until_s = self._placed.get(call_sid, (None, 0.0))
        if left is None or time.monotonic() >= until_s:
            return None
        return twiml.pause(PAUSE_S) if left.redirected else twiml.leave()

    async def run(self) -> None:
        """Give slots to those who wait until cancelled, whenever this node leads."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(SERVE_EVERY_S)
                self._callers.drop_gone(time.monotonic())
                while self._leads() and (call_sid := await self.serve_one()):
                    tasks.create_task(self._redirect(call_sid))

    def _leads(self) -> bool:
        now = time.monotonic()
        live = [seen.heartbeat.node for seen in self._member.directory.live(now)]
        return now >= self._leads_from_s and (self._member.is_cut_off or leads(self._member.name, live))

    async def serve_one(self) -> CallSid | None:
        """Reserve a slot for the first caller who can have one; return them, None if there was no slot.

        A call that was on, perhaps at a node that is gone, goes on at nodes with its checkpoint only: while these are
        full, it does not keep others waiting.
        """
        for wait in self._callers.in_order(time.monotonic()):
            if wait.call not in self._callers:  # has left meanwhile
                continue
            asked = None if self._member.is_cut_off else await self._exchange.ask(wait.call)
            if asked and not asked.candidates():  # a slot that comes free now is for the first
                break
            is_on = wait.form.get("CallStatus") == IN_PROGRESS
            if await self._place(asked, PlaceRequest.of(wait.as_form(), resumes=is_on)):
                self._on_left(Left(call=wait.call, placed=True, redirected=self._redirector is not None), "")
                return wait.call
            if not is_on:
                break
        return None

    async def _place(self, asked: Asked | None, request: PlaceRequest) -> str | None:
        """Return the answer of a node, of this one if it has not `asked` others."""
        return await (self._exchange.place(asked, request) if asked else self._exchange.answer_here(request))

    async def _redirect(self, call_sid: CallSid) -> None:
        """Redirect a caller who has a slot; tell the nodes."""
        redirector, call_log = self._redirector, CallLogger(log, call_sid)
        redirected = redirector is not None and await try_redirect(
            redirector, call_sid, self._voice_url, call_log, "first in the queue"
        )
        await self._remove(Left(call=call_sid, placed=True, redirected=redirected))

    async def _remove(self, left: Left) -> None:
        self._on_left(left, "")
        await self._bus.publish("line.left", left)

    def _on_wait(self, wait: Wait, _: str) -> None:
        if self.page(wait.call) is None:
            self._callers.add(wait, time.monotonic())

    def _on_left(self, left: Left, _: str) -> None:
        self._callers.remove(left.call)
        now = time.monotonic()
        self._placed = {call: one for call, one in self._placed.items() if one[1] > now}
        if left.placed:
            self._placed[left.call] = left, now + ASKS_WITHIN_S
