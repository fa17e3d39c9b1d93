"""The line of waiting callers, as one node keeps it; the one that leads has the first caller take a slot."""

import asyncio
import logging
import time

from app.calls.queue import ASKS_WITHIN_S, PAUSE_S, CallRedirector, try_redirect
from app.calls.router import IN_PROGRESS
from app.cluster.bus import Bus
from app.cluster.exchange import Exchange
from app.cluster.member import Member
from app.cluster.messages import Left, Take, Wait
from app.cluster.waiting import Line, leads
from app.logging import CallLogger
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.form import Form

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
KNOWS_LINE_AFTER_S = PAUSE_S + 2.0
"""How long a node that has just been started does not lead: every caller in line has asked for a page by then."""


class ClusterLine:
    """`voice_url` is where a caller who has a slot is sent."""

    def __init__(
        self, bus: Bus, member: Member, exchange: Exchange, redirector: CallRedirector | None, voice_url: str
    ) -> None:
        self.line = Line()
        self._bus, self._member, self._exchange = bus, member, exchange
        self._redirector, self._voice_url = redirector, voice_url
        self._placed: dict[CallSid, tuple[Left, float]] = {}
        self._leads_from_s = time.monotonic() + KNOWS_LINE_AFTER_S

    async def subscribe(self) -> None:
        await self._bus.subscribe("line.wait", Wait, self._on_wait)
        await self._bus.subscribe("line.left", Left, self._on_left)

    async def enter(self, form: Form, since_s: float) -> None:
        """Add a caller, or tell that they still wait."""
        wait = Wait(call=form.call_sid, form=dict(form.fields), query=form.query, since_s=since_s)
        self._on_wait(wait, "")
        await self._bus.publish("line.wait", wait)

    async def leave(self, call_sid: CallSid) -> None:
        await self._tell(Left(call=call_sid))

    def page(self, call_sid: CallSid) -> str | None:
        """Return the page of a caller who has a slot, None for one who waits."""
        left, until_s = self._placed.get(call_sid, (None, 0.0))
        if left is None or time.monotonic() >= until_s:
            return None
        return twiml.pause(PAUSE_S) if left.redirected else twiml.leave()

    async def run(self) -> None:
        """Serve the line until cancelled, whenever this node leads."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            while self._leads() and await self._serve_first():
                pass

    def _leads(self) -> bool:
        now = time.monotonic()
        live = [seen.beat.node for seen in self._member.directory.live(now)]
        return now >= self._leads_from_s and (self._member.is_cut_off or leads(self._member.name, live))

    async def _serve_first(self) -> bool:
        """Have the first caller take a slot; return whether there was one for them."""
        first = self.line.first(time.monotonic())
        if first is None:
            return False
        is_on = first.form.get("CallStatus") == IN_PROGRESS  # perhaps at a node that is gone
        take = Take(call=first.call, form=first.form, query=first.query, resumes=is_on)
        if self._member.is_cut_off:
            answer = await self._exchange.answer_here(take)
        else:
            answer = await self._exchange.place(await self._exchange.ask(first.call), take)
        if not answer:
            return False
        await self._tell(Left(call=first.call, placed=True, redirected=await self._redirect(first.call)))
        return True

    async def _redirect(self, call_sid: CallSid) -> bool:
        if self._redirector is None:
            return False
        self._on_left(Left(call=call_sid, placed=True, redirected=True), "")  # a page may be asked for meanwhile
        return await try_redirect(
            self._redirector, call_sid, self._voice_url, CallLogger(log, call_sid), "first in line"
        )

    async def _tell(self, left: Left) -> None:
        self._on_left(left, "")
        await self._bus.publish("line.left", left)

    def _on_wait(self, wait: Wait, _: str) -> None:
        if self.page(wait.call) is None:
            self.line.add(wait, time.monotonic())

    def _on_left(self, left: Left, _: str) -> None:
        self.line.remove(left.call)
        now = time.monotonic()
        self._placed = {call: one for call, one in self._placed.items() if one[1] > now}
        if left.placed:
            self._placed[left.call] = left, now + ASKS_WITHIN_S
