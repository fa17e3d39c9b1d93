"""Nodes that answer late, as busy ones do: a call keeps its memory, and one node has it in the end."""

import contextlib
from pathlib import Path

import pytest
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import APIError

from app.calls.active_call import ActiveCall
from app.calls.conversation import STEP_BYTES
from app.calls.end_reason import EndReason
from app.cluster.log_store import PUBLISH_EVERY_S, STREAM, subject_of
from app.cluster.messages import PlaceRequest
from app.cluster.placement import Asked
from app.twilio import twiml
from app.twilio.events import CallSid
from tests.app.cluster.nodes import sid
from tests.nodes.light import LightCluster, LightNode, form, light_nodes
from tests.nodes.nats_servers import NatsServers, nats_servers, needs_nats
from tests.waiting import until

pytestmark = [pytest.mark.slow, needs_nats]

STEPS = 30


async def nobody_in_time(call_sid: CallSid, within_s: float = 0.0) -> Asked:
    return Asked(call_sid, {})


async def one_call(nodes: LightCluster) -> tuple[ActiveCall, LightNode, LightNode]:
    """Begin a call and log its steps; return it, its node, and another."""
    verb = await nodes.nodes[0].answer(sid(1))
    first = nodes.of(verb)
    call = first.begin(verb, sid(1))
    for _ in range(STEPS):
        call.session.conversation.add_step(bytes(STEP_BYTES))
    await nodes.until_logged(sid(1), STEPS)
    return call, first, next(node for node in nodes.nodes if node is not first)


async def kill_leader(nats: NatsServers, node: LightNode) -> None:
    """Kill the server that leads the token logs; until the others have elected another there is no leader."""
    found = await JetStreamContext(node.node.bus.nats).stream_info(STREAM)
    assert found.cluster
    assert found.cluster.leader
    await nats.kill(int(found.cluster.leader.removeprefix("nats-")))


async def test_a_call_that_comes_back_is_not_begun_anew_though_no_node_answers_in_time(tmp_path: Path) -> None:
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        call, _, other = await one_call(nodes)
        other.node.exchange.ask = nobody_in_time  # type: ignore[method-assign]
        verb = await other.answer(sid(1), CallStatus="in-progress")
        assert nodes.of(verb) is other
        assert other.begin(verb, sid(1)).session.conversation.steps == STEPS
        await until(lambda: call.over)


async def test_a_call_goes_on_though_its_node_and_the_server_that_leads_its_log_are_lost(tmp_path: Path) -> None:
    """At once: a stream has no leader until the servers that are left have elected one."""
    async with nats_servers(tmp_path, 3) as nats, light_nodes(nats.url) as nodes:
        _, first, other = await one_call(nodes)
        await kill_leader(nats, other)
        await first.stop()
        nodes.nodes.remove(first)
        answer = await other.node.routing.after_stream(form(sid(1), CallStatus="in-progress"))
        verb = twiml.parse(answer)[0]
        assert nodes.of(verb).begin(verb, sid(1)).session.conversation.steps == STEPS


async def test_of_two_nodes_that_keep_a_slot_for_a_call_the_one_to_which_twilio_comes_has_it(tmp_path: Path) -> None:
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        chosen, late, _ = nodes.nodes
        request = PlaceRequest(call=sid(1), form=form(sid(1)).fields, epoch=5)
        answer, _ = [await node.node.exchange.answer_here(request) for node in (chosen, late)]
        for node in (chosen, late):
            node.node.member.announce()
        await nodes.settle()
        assert answer
        call = chosen.begin(twiml.parse(answer)[0], sid(1))
        await until(lambda: late.manager.call(sid(1)) is None)
        await nodes.settle()
        assert (call.over, nodes.free) == (False, [7, 8, 8])
        record = late.manager.record(sid(1))
        assert record
        assert record.end is EndReason.REPLACED, "its slot is not kept until no socket has come in time"


async def test_the_log_of_a_call_that_ends_while_its_servers_have_no_leader_is_purged_all_the_same(
    tmp_path: Path,
) -> None:
    async with nats_servers(tmp_path, 3) as nats, light_nodes(nats.url) as nodes:
        call, _, other = await one_call(nodes)
        await kill_leader(nats, other)
        call.end(EndReason.HANGUP_KEY)

        stream = JetStreamContext(other.node.bus.nats)

        async def is_purged() -> bool:
            with contextlib.suppress(APIError, Error, TimeoutError):
                return (await stream.stream_info(STREAM)).state.messages == 0
            return False

        await until(is_purged)


async def test_a_log_whose_beginning_nats_has_lost_is_whole_again_soon(tmp_path: Path) -> None:
    """As `forget` deletes it while the call is on."""
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        call, _, other = await one_call(nodes)
        conversation = call.session.conversation
        stream = JetStreamContext(other.node.bus.nats)

        async def is_whole() -> bool:
            conversation.add_step(bytes(STEP_BYTES))
            _, read = await other.node.logs.read(sid(1))
            return read is not None and read.skipped == 0 and read.steps >= 3 * STEPS

        await until(is_whole, look_again_s=PUBLISH_EVERY_S)
        await stream.purge_stream(STREAM, subject=subject_of(sid(1), "*"))
        await until(is_whole, look_again_s=PUBLISH_EVERY_S)


async def test_the_log_of_a_call_that_another_node_has_purged_is_not_published_on(tmp_path: Path) -> None:
    """Twilio tells any node that it is over; its own one publishes the last steps a moment later."""
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        call, first, other = await one_call(nodes)
        call.end(EndReason.CALLER_HUNG_UP)
        await other.node.routing.handle_status(form(sid(1), CallStatus="completed"))
        await until(lambda: call.session.record.over)
        call.session.conversation.add_step(bytes(STEP_BYTES))
        answer = await first.node.exchange.answer_here(PlaceRequest(call=sid(2), form=form(sid(2)).fields))
        second = first.begin(twiml.parse(answer or "")[0], sid(2))
        second.session.conversation.add_step(bytes(STEP_BYTES))
        await nodes.until_logged(sid(2), 1)
        assert not await other.node.logs.has(sid(1))
