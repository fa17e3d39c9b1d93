"""A node that has been started while no NATS server runs."""

import contextlib
import time
from collections.abc import AsyncIterator

from app.calls.admission import VoiceRequest
from app.calls.end_reason import EndReason
from app.cli.service_process import free_port
from app.cluster.fallback import FallbackTokens
from app.cluster.seal import Seal
from app.twilio import twiml
from tests.app.cluster.nodes import ACCOUNT, TOKEN, heartbeat, sid
from tests.nodes.light import LightNode, Redirects, form
from tests.waiting import until


@contextlib.asynccontextmanager
async def node_alone(redirects: Redirects, **settings: object) -> AsyncIterator[LightNode]:
    node = LightNode(f"nats://127.0.0.1:{free_port()}", 0, redirects, **settings)
    node.start()
    try:
        yield node
    finally:
        await node.stop()


async def test_who_waits_at_a_node_that_has_never_reached_nats_gets_a_slot() -> None:
    redirects = Redirects()
    async with node_alone(redirects, max_calls=1, when_busy="queue") as node:
        node.node.queue._leads_from_s = 0.0
        call = node.begin(await node.answer(sid(1)), sid(1))
        assert isinstance(await node.answer(sid(2)), twiml.Enqueue)
        call.end(EndReason.CALLER_HUNG_UP)
        await until(lambda: redirects.calls == [sid(2)])


async def test_calls_per_number_are_limited_while_nats_is_away() -> None:
    async with node_alone(Redirects(), calls_per_number_per_hour=1) as node:
        assert isinstance(await node.answer(sid(1)), twiml.Connect)
        assert isinstance(await node.answer(sid(1)), twiml.Connect)
        assert isinstance(await node.answer(sid(2)), twiml.Reject)


async def test_a_repeated_webhook_is_sent_to_the_other_node_again_and_not_counted_twice() -> None:
    async with node_alone(Redirects(), max_calls=1, calls_per_number_per_hour=2) as node:
        node.node.member.directory.on_heartbeat(heartbeat("b", free=1), time.monotonic())
        node.begin(await node.answer(sid(1)), sid(1))
        for _ in range(3):
            assert isinstance(await node.answer(sid(2)), twiml.Connect)
        assert isinstance(await node.answer(sid(3)), twiml.Reject)


async def test_nobody_is_told_to_wait_while_all_nodes_drain() -> None:
    async with node_alone(Redirects(), max_calls=1, when_busy="queue") as node:
        node.begin(await node.answer(sid(1)), sid(1))
        assert isinstance(await node.answer(sid(2)), twiml.Enqueue)
        node.manager.stop_accepting()
        assert isinstance(await node.answer(sid(3)), twiml.Reject)
        assert await node.node.routing.wait(form(sid(2))) == twiml.hangup()


async def test_a_call_of_another_node_that_comes_here_is_not_screened_again() -> None:
    async with node_alone(Redirects(), calls_per_number_per_hour=1) as node:
        node.node.member.directory.on_heartbeat(heartbeat("b", calls={sid(1): 1}), time.monotonic())
        await node.answer(sid(2))
        assert isinstance(await node.answer(sid(1), CallStatus="in-progress"), twiml.Connect)
        assert isinstance(await node.answer(sid(3)), twiml.Reject)


async def test_a_call_that_came_by_the_token_of_another_node_is_this_node_s_once_nats_is_back() -> None:
    async with node_alone(Redirects()) as node:
        member = node.node.member
        member.directory.on_heartbeat(heartbeat("b", calls={sid(1): 5}), time.monotonic())
        token = FallbackTokens(Seal([TOKEN]), ACCOUNT).make(node.name, sid(1), VoiceRequest(), time.time())
        assert node.node.routing.claim(token)
        assert member.directory.lost_calls(member.calls) == []
