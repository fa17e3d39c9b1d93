"""The answers to Twilio's webhooks, by all nodes together: whichever gets one asks the others.

While NATS is away a node answers with a slot of its own, else with a token for the node that was freest by its last
heartbeat.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from urllib.parse import parse_qs

from app.calls.active_call import ActiveCall
from app.calls.manager import CallManager
from app.calls.queue import PAUSE_S
from app.calls.router import HANGUP, IN_PROGRESS, CallRouter
from app.cluster.bus import Bus
from app.cluster.exchange import ASK_OF_CALL_WITHIN_S, Exchange
from app.cluster.fallback import FallbackTokens
from app.cluster.log_store import LogStore
from app.cluster.member import Member
from app.cluster.messages import Hook, PlaceRequest, Status
from app.cluster.placement import ASK_WITHIN_S, Asked, last_known
from app.cluster.queue import ClusterQueue
from app.logging import CallLogger
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.form import Form
from app.twilio.status import CallStatusCallback, parse_status
from workers.messages import FRAME_S

log = logging.getLogger(__name__)

RECONNECT_WITHIN_S = 5.0
"""How long a call of which nothing is known here waits for NATS to come back."""


class ClusterRouting:
    """`Routing` over all nodes; `longest` is how many callers may wait."""

    def __init__(
        self,
        bus: Bus,
        member: Member,
        exchange: Exchange,
        queue: ClusterQueue,
        logs: LogStore,
        tokens: FallbackTokens,
        router: CallRouter,
        manager: CallManager,
        longest: int,
    ) -> None:
        self._bus, self._member, self._exchange, self._queue, self._logs = bus, member, exchange, queue, logs
        self._tokens, self._router, self._manager, self._longest = tokens, router, manager, longest
        self._given: dict[CallSid, str] = {}
        """To which process each call was given since NATS went away."""
        self.without_nats = 0
        """Calls that were placed while NATS was away."""

    async def subscribe(self) -> None:
        await self._bus.subscribe("status", Status, self._on_status)

    async def answer(self, form: Form, webhook_token: str = "") -> str:
        if self._member.is_cut_off:
            settled = self._router.settle(form, webhook_token, self._is_known(form))
            return settled or await self._answer_alone(form, webhook_token)
        is_on = form.fields.get("CallStatus") == IN_PROGRESS
        asked = await self._exchange.ask(form.call_sid, ASK_OF_CALL_WITHIN_S if is_on else ASK_WITHIN_S)
        resumes = await self._may_resume(form, asked)
        known = resumes or bool(asked.epoch) or form.call_sid in self._member.callers
        if settled := self._router.settle(form, webhook_token, known):
            return settled
        if not asked.offers:
            return await self._answer_alone(form, webhook_token)
        known |= form.outbound
        answer = None
        if known or not len(self._member.callers):
            answer = await self._exchange.place(
                asked, self._place_request(form, webhook_token, asked, resumes, Hook.VOICE)
            )
        answer = answer or await self._enqueue(form)
        if answer and not known:
            self._router.on_admitted(form)
        return answer or self._router.reject(form)

    async def after_stream(self, form: Form, webhook_token: str = "") -> str:
        if form.fields.get("CallStatus", IN_PROGRESS) != IN_PROGRESS:
            return self._router.after_stream(form, webhook_token)
        if self._manager.record(form.call_sid) is None:
            await self._until_connected()
        asked = await self._ask(form.call_sid, ASK_OF_CALL_WITHIN_S)
        request = self._place_request(form, webhook_token, asked, True, Hook.AFTER_STREAM)
        if not asked.offers:
            return await self._resume_here(request) or self._router.after_stream(form, webhook_token)
        answer = await self._exchange.place(asked, request)
        if answer is None:
            CallLogger(log, form.call_sid).warning("no node goes on with this call")
        return answer or twiml.hangup()

    async def _ask(self, call_sid: CallSid, within_s: float) -> Asked:
        """Return what the nodes offer, nothing while NATS is away."""
        return Asked(call_sid, {}) if self._member.is_cut_off else await self._exchange.ask(call_sid, within_s)

    async def _until_connected(self) -> None:
        """Wait for NATS a while: its server may be lost together with the node that had a call."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_WITHIN_S):
                while not self._bus.is_connected:  # noqa: ASYNC110 - the other server's matter
                    await asyncio.sleep(FRAME_S)

    async def after_dial(self, form: Form, webhook_token: str = "") -> str:
        is_over = self._router.on_dialled(form)
        await self._publish(form)
        return twiml.hangup() if is_over else await self.answer(form, webhook_token)

    async def handle_status(self, form: Form) -> None:
        self._router.handle_status(form)
        if _is_over(form):
            await self._queue.leave(form.call_sid)
        await self._purge_if_over(form)
        await self._publish(form)

    async def wait(self, form: Form) -> str:
        if page := self._queue.page(form.call_sid):
            return page
        if not self._accepts_calls:
            return twiml.hangup()
        await self._queue.enter(form, _since(form.query))
        return twiml.pause(PAUSE_S)

    async def after_wait(self, form: Form) -> str:
        await self._queue.leave(form.call_sid)
        if form.fields.get("QueueResult") == HANGUP:
            await self._publish(form)
            return self._router.after_wait(form)
        asked = await self._ask(form.call_sid, ASK_WITHIN_S)
        if not asked.epoch:  # while NATS is away this node may keep a slot for them
            return self._router.after_wait(form)
        request = self._place_request(form, "", asked, False, Hook.VOICE)
        return await self._exchange.place(asked, request) or twiml.hangup()

    def claim(self, token: str) -> ActiveCall | None:
        """Also with a token that another node has given while NATS was away.

        Several nodes may have reserved a slot for the call, as answers came late: it is on where Twilio came.
        """
        call = self._manager.claim(token) or self._redeem(token)
        if call:
            self._own(call)
        return call

    def _redeem(self, token: str) -> ActiveCall | None:
        """Return the call that has such a token of another node, None without one or without a slot."""
        admitted = self._tokens.redeem(self._member.name, token, time.time())
        if admitted is None or self._manager.call(admitted[0]):
            return None
        reservation = self._manager.reserve(*admitted)
        self._member.announce()
        return self._manager.claim(reservation.token) if reservation else None

    def _own(self, call: ActiveCall) -> None:
        call_sid = call.session.record.call_sid
        owner, epoch = self._member.directory.owner(call_sid), self._member.epoch(call_sid)
        if owner and owner.boot != self._member.boot and owner.epoch >= epoch:
            self._member.own(call_sid, owner.epoch + 1)
            self._logs.open(call, owner.epoch + 1)
            self._member.announce()

    def on_connected(self) -> None:
        self._given.clear()

    def _is_known(self, form: Form) -> bool:
        """Return whether a call was admitted before, as far as this node knows alone."""
        member = self._member
        elsewhere = form.call_sid in member.callers or member.directory.owner(form.call_sid) is not None
        return elsewhere or form.call_sid in self._given or self._router.is_known(form)

    async def _may_resume(self, form: Form, asked: Asked) -> bool:
        """Return whether a call was on at a node that does not offer to go on with it: it may have left a token log."""
        if self._member.directory.owner(form.call_sid) or any(one.holds for one in asked.offers.values()):
            return True
        return form.fields.get("CallStatus") == IN_PROGRESS and await self._logs.has(form.call_sid)

    def _place_request(self, form: Form, webhook_token: str, asked: Asked, resumes: bool, hook: Hook) -> PlaceRequest:
        owner = self._member.directory.owner(form.call_sid)
        came_from = asked.holder or (owner.node if owner else "")
        return PlaceRequest.of(form, token=webhook_token, hook=hook, resumes=resumes, came_from=came_from)

    async def _enqueue(self, form: Form) -> str | None:
        callers = self._member.callers
        is_full = len(callers) >= self._longest and form.call_sid not in callers
        if is_full or not self._router.queues(form) or not self._accepts_calls:
            return None
        since_s = round(time.time(), 6)  # as the wait page's URL says it: of two equal ones the first stays
        await self._queue.enter(form, since_s)
        return self._router.enqueue(form, len(callers), f"?since={since_s:.6f}")

    @property
    def _accepts_calls(self) -> bool:
        """Whether any node does, so that slots come free for those who wait."""
        live = self._member.directory.live(time.monotonic())
        return not (self._manager.draining and all(seen.heartbeat.draining for seen in live))

    async def _answer_alone(self, form: Form, webhook_token: str) -> str:
        """Answer while NATS is away, or as good as away."""
        known = self._is_known(form)
        answer = await self._admit_alone(form, webhook_token)
        if answer and not known:
            self._router.on_admitted(form)
        return answer or self._router.reject(form)

    async def _admit_alone(self, form: Form, webhook_token: str) -> str | None:
        request = self._place_request(form, webhook_token, Asked(form.call_sid, {}), True, Hook.VOICE)
        if answer := await self._resume_here(request) or self._router.put_through(form, webhook_token):
            self.without_nats += 1
            return answer
        self._given.pop(form.call_sid, None)
        best = last_known(self._member.directory, Counter(self._given.values()))
        if best is None:
            return await self._enqueue(form)
        self.without_nats += 1
        self._given[form.call_sid] = best.heartbeat.boot
        asks_for = self._router.request(form, webhook_token)
        token = self._tokens.make(best.heartbeat.node, form.call_sid, asks_for, time.time())
        return self._router.connect(form, token, best.heartbeat.url)

    async def _resume_here(self, request: PlaceRequest) -> str | None:
        """Answer with a slot of this node for a call from elsewhere whose token log can be read."""
        is_on = request.form.get("CallStatus", IN_PROGRESS) == IN_PROGRESS and self._bus.is_connected
        if is_on and self._manager.record(request.call) is None and await self._logs.has(request.call):
            return await self._exchange.answer_here(request)
        return None

    async def _publish(self, form: Form) -> None:
        """Send the other nodes what Twilio says of a call."""
        await self._bus.publish("status", Status.of(form, node=self._member.name))

    async def _purge_if_over(self, form: Form) -> None:
        if _is_over(form):
            await self._logs.purge(form.call_sid)

    async def _on_status(self, status: Status, _: str) -> None:
        if status.node == self._member.name:
            return
        form = status.as_form()
        if form.fields.get("QueueResult") == HANGUP:
            self._router.after_wait(form)
        elif not self._manager.record(form.call_sid):
            return
        elif "DialCallStatus" in form.fields:
            self._router.on_dialled(form)
        else:
            self._router.handle_status(form)
            await self._purge_if_over(form)  # what was published here since the other node has purged


def _is_over(form: Form) -> bool:
    status = parse_status(form.fields)
    return isinstance(status, CallStatusCallback) and status.over


def _since(query: str) -> float:
    """Return since when a caller waits, as our own URL says; now for one of whom it does not say."""
    text = parse_qs(query).get("since", [""])[-1]
    whole, _, part = text.partition(".")
    number = float(text) if (whole + part).isdecimal() and (whole + part).isascii() and len(text) < 32 else None
    return time.time() if number is None else min(number, time.time())
