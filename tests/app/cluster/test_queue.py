"""The queue of all nodes, as one of them keeps it."""

import asyncio
import time

from app.calls.end_reason import EndReason
from app.calls.queue import ASKS_WITHIN_S
from app.cluster.messages import Wait
from app.cluster.placement import Asked
from app.twilio.events import CallSid
from tests.app.calls.front import ANN, BOB, form
from tests.app.cluster.nodes import sid
from tests.app.cluster.test_exchange import Logs, Node, waits
from tests.processes.pipeline import PATIENCE_S
from tests.waiting import until


async def test_a_node_that_does_not_lead_forgets_who_asks_for_no_more_pages() -> None:
    node = Node(Logs(set(), "new"))
    asked_s = time.monotonic() - ASKS_WITHIN_S - 1
    node.member.callers.add(Wait.of(form(ANN), since_s=1.0), asked_s)
    node.queue._leads_from_s = float("inf")
    running = asyncio.create_task(node.queue.run())
    await until(lambda: not len(node.member.callers))
    running.cancel()


async def test_while_nats_is_away_who_waits_gets_a_slot_without_a_look_for_a_token_log() -> None:
    logs = Logs(set(), "new")
    node = Node(logs)
    node.bus.is_connected = False  # type: ignore[misc]
    await node.queue.enter(form(ANN, CallStatus="in-progress"), 1.0)
    async with asyncio.timeout(PATIENCE_S):
        assert await node.queue.serve_one()
    assert logs.reads == []


async def test_a_slot_that_comes_free_while_callers_are_tried_is_for_the_first_of_them() -> None:
    """A node that leads after a restart knows their wait pages alone: each call is in progress, as one that was on."""
    logs = Logs(set(), "new")
    logs.are_read = True
    node = Node(logs)
    on, *_ = [node.front.talk(sid(number)) for number in range(node.front.manager.slots)]
    ask = node.exchange.ask

    async def ask_late(call_sid: CallSid, within_s: float = 0.0) -> Asked:
        if call_sid == BOB:
            on.end(EndReason.CALLER_HUNG_UP)
        return await ask(call_sid)

    node.exchange.ask = ask_late  # type: ignore[method-assign]
    for since_s, caller in enumerate((ANN, BOB), 1):
        await node.queue.enter(form(caller, CallStatus="in-progress"), since_s)
    assert not await node.queue.serve_one()
    assert waits(node, ANN, BOB) == [ANN, BOB]


async def test_a_redirect_that_takes_long_delays_no_other() -> None:
    node, answered = Node(Logs(set(), "new")), asyncio.Event()
    redirect = node.front.redirector.redirect

    async def redirect_slowly(call_sid: str, url: str) -> None:
        if call_sid == ANN:
            await answered.wait()
        await redirect(call_sid, url)

    node.front.redirector.redirect = redirect_slowly  # type: ignore[method-assign]
    node.queue._leads_from_s = 0.0
    for since_s, caller in enumerate((ANN, BOB), 1):
        await node.queue.enter(form(caller, CallStatus="ringing"), since_s)
    running = asyncio.create_task(node.queue.run())
    await until(lambda: [call for call, _ in node.front.redirector.redirected] == [BOB])
    answered.set()
    await until(lambda: [call for call, _ in node.front.redirector.redirected] == [BOB, ANN])
    running.cancel()
