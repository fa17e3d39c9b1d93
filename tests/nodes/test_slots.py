"""Slots and the line of waiting callers over three nodes and a real NATS server; 8 slots a node."""

import asyncio
import logging
import random
from pathlib import Path

import pytest
from nats.aio.client import Client

from app.calls.end_reason import EndReason
from app.cluster.messages import PlaceRequest, Wait
from app.cluster.seal import Seal
from app.twilio import twiml
from tests.app.cluster.nodes import TOKEN, heartbeat, sid
from tests.app.cluster.test_messages import mutated
from tests.nodes.light import form, light_nodes
from tests.nodes.nats_servers import nats_servers, needs_nats
from tests.processes.pipeline import PATIENCE_S
from tests.scale import scaled
from tests.waiting import until

pytestmark = [pytest.mark.slow, needs_nats]

ROUNDS = scaled(20, 3)
ATTEMPTS = scaled(1_000, 100)
HOSTILE = 20_000
LIMITS = (
    *("routing.ASK_WITHIN_S", "routing.ASK_OF_CALL_WITHIN_S", "exchange.ASK_OF_CALL_WITHIN_S"),
    *("exchange.PLACE_WITHIN_S", "exchange.READ_WITHIN_S", "directory.SILENT_S", "directory.ECHO_WITHIN_S"),
)


@pytest.fixture(autouse=True)
def _nodes_that_stand_still_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are in this process."""
    for limit in LIMITS:
        monkeypatch.setattr(f"app.cluster.{limit}", PATIENCE_S)


async def test_of_30_callers_24_get_a_slot_and_the_others_are_in_line_in_the_order_in_which_they_came(
    tmp_path: Path,
) -> None:
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url, when_busy="queue") as nodes:
        for node in nodes.nodes:
            node.node.queue._leads_from_s = 0.0
        for round_number in range(ROUNDS):
            calls = [sid(100 * round_number + number) for number in range(30)]
            first = await asyncio.gather(*(nodes.nodes[n % 3].answer(call) for n, call in enumerate(calls[:24])))
            later = [await nodes.nodes[n % 3].answer(call) for n, call in enumerate(calls[24:])]
            assert [type(verb) for verb in first] == [twiml.Connect] * 24
            assert [type(verb) for verb in later] == [twiml.Enqueue] * 6
            assert nodes.free == [0, 0, 0]
            on = [nodes.of(verb).begin(verb, call) for verb, call in zip(first, calls, strict=False)]
            nodes.redirects.calls.clear()
            for number, call in enumerate(random.Random(round_number).sample(on, 6)):
                call.end(EndReason.CALLER_HUNG_UP)
                await until(lambda: len(nodes.redirects.calls) > number)  # noqa: B023 - before the next one
            assert nodes.redirects.calls == calls[24:]
            back = [await nodes.nodes[n % 3].answer(call) for n, call in enumerate(calls[24:], 1)]
            assert [type(verb) for verb in back] == [twiml.Connect] * 6
            assert nodes.free == [0, 0, 0]
            for node in nodes.nodes:
                for call in node.manager.calls:
                    call.end(EndReason.CALLER_HUNG_UP)
            await nodes.settle()
            assert (nodes.free, len(nodes.nodes[0].node.member.callers)) == ([8, 8, 8], 0)


async def test_callers_are_spread_over_the_nodes_and_the_rest_is_told_busy(tmp_path: Path) -> None:
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        verbs = [await nodes.nodes[number % 3].answer(sid(number)) for number in range(30)]
        places = [nodes.of(verb).name for verb in verbs if isinstance(verb, twiml.Connect)]
        assert [places.count(node.name) for node in nodes.nodes] == [8, 8, 8]
        assert verbs.count(twiml.Reject("busy")) == 6


async def test_a_caller_who_waits_gets_a_slot_while_nats_is_away_also_if_twilio_refuses_to_redirect(
    tmp_path: Path,
) -> None:
    """They leave Twilio's queue with their next wait page."""
    async with (
        nats_servers(tmp_path) as nats,
        light_nodes(nats.url, count=1, max_calls=1, when_busy="queue") as nodes,
    ):
        (node,), nodes.redirects.fails = nodes.nodes, True
        node.node.queue._leads_from_s = 0.0
        call = node.begin(await node.answer(sid(1)), sid(1))
        await nats.kill(0)
        await until(lambda: node.node.member.is_cut_off)
        assert isinstance(await node.answer(sid(2)), twiml.Enqueue)
        call.end(EndReason.CALLER_HUNG_UP)
        await until(lambda: node.node.queue.page(sid(2)) == twiml.leave())
        answer = await node.node.routing.after_wait(form(sid(2), QueueResult="leave"))
        assert node.begin(twiml.parse(answer)[0], sid(2)).session.record.call_sid == sid(2)


async def test_reserving_and_dying_in_every_state_loses_no_slot(tmp_path: Path) -> None:
    """The caller, or the node that asks, is gone: after the webhook, the socket, the start; while others repeat."""
    chance = random.Random(15)
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        for attempt in range(ATTEMPTS):
            call_sid, asking = sid(attempt), chance.choice(nodes.nodes)
            stage = attempt % 6
            if stage == 0:  # asked, and never took
                await asking.node.exchange.ask(call_sid)
            elif stage == 1:  # took, and died before the answer came
                asked = await asking.node.exchange.ask(call_sid)
                request = PlaceRequest(call=call_sid, form=form(call_sid).fields)
                await asking.node.bus.publish(f"slots.take.{asked.candidates()[0]}", request)
            else:
                verb = await asking.answer(call_sid)
                place = nodes.of(verb)
                if stage == 3:  # the webhook is repeated elsewhere
                    again = await chance.choice(nodes.nodes).answer(call_sid)
                    assert again == verb
                if stage == 4:
                    call = place.connect(verb)
                    assert call
                    call.end(EndReason.SOCKET_LOST)
                if stage == 5:
                    place.begin(verb, call_sid).end(EndReason.CALLER_HUNG_UP)
            if attempt % 12 == 11:
                await nodes.settle()
                for node in nodes.nodes:
                    node.let_reservations_expire()
                await nodes.settle()
                assert nodes.free == [8, 8, 8], attempt


async def test_a_hostile_peer_raises_nothing_ends_no_call_and_takes_no_slot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It knows all formats, and has no node's credential for the account; nor do messages that are only broken.

    What a node once sent is of no use to it later; nor to a node what it says in another's name.
    """
    chance, wrong, right = random.Random(15), Seal(["another token"]), Seal([TOKEN])
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url) as nodes:
        verbs = [await nodes.nodes[number % 3].answer(sid(number)) for number in range(6)]
        on = [nodes.of(verb).begin(verb, sid(number)) for number, verb in enumerate(verbs)]
        await nodes.settle()
        free, name = nodes.free, nodes.nodes[0].name
        bodies = [
            heartbeat(name, boot="other", calls=dict.fromkeys(map(sid, range(6)), 2**40)).to_bytes(),
            heartbeat(name, bye=True).to_bytes(),
            PlaceRequest(call=sid(77), form=form(sid(77)).fields, epoch=9).to_bytes(),
            Wait(call=sid(78), form={}, since_s=0.0).to_bytes(),
        ]
        subjects = [
            f"hb.{name}",
            "slots.ask",
            f"slots.take.{name}",
            f"drain.{name}",
            "line.wait",
            "line.left",
            "status",
        ]
        peer = Client()
        await peer.connect(nats.url)
        for number in range(HOSTILE):
            subject, body = chance.choice(subjects), chance.choice(bodies)
            broken = mutated(body, chance) if number % 2 else body
            match number % 6:
                case 0 | 1:
                    sent = wrong.close(subject, broken)
                case 2:
                    sent = right.close(subject, body)  # of 1970
                case 3:
                    subject = f"hb.{name}x"
                    sent = right.close(subject, bodies[number % 2])
                case 4:
                    sent = chance.choice([broken, chance.randbytes(40), b"", b"[" * 5_000])
                case _:
                    sent = right.close(subject, chance.randbytes(chance.randint(0, 60)) + b"{" * chance.randint(0, 90))
            await peer.publish(subject, sent, chance.choice(["", "anywhere", f"_INBOX.{name}.x"]))
            if number % 500 == 0:
                await peer.flush()
        await peer.flush()
        await nodes.settle()
        assert (nodes.free, [call.over for call in on]) == (free, [False] * 6)
        assert isinstance(await nodes.nodes[1].answer(sid(99)), twiml.Connect)
        assert sum(node.node.bus.refused for node in nodes.nodes) > HOSTILE
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
        await peer.close()
