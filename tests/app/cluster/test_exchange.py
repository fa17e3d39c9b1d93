"""One node answers webhooks for calls whose token logs it reads, and serves the queue of all."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from app.calls.admission import VoiceRequest
from app.calls.conversation import Conversation, ConversationHeader
from app.calls.personas import Chosen
from app.cluster.bus import Bus
from app.cluster.directory import Directory
from app.cluster.exchange import Exchange
from app.cluster.fallback import FallbackTokens
from app.cluster.log_store import LogStore
from app.cluster.member import Member
from app.cluster.messages import Heartbeat, Hook, Offer, PlaceRequest
from app.cluster.placement import Asked
from app.cluster.queue import ClusterQueue
from app.cluster.routing import ClusterRouting
from app.cluster.seal import Seal
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, Started, StreamSid
from tests.app.calls.front import ANN, BOB, Front, form, settle
from tests.app.cluster.nodes import heartbeat
from workers.messages import STEP_TOKENS, CallPersona


class Logs:
    """Token logs of two steps; each is read once the test lets it be."""

    def __init__(self, calls: set[CallSid], checkpoint: str) -> None:
        self.reads: list[asyncio.Event] = []
        self.are_read = False
        self._calls, self._checkpoint = calls, checkpoint

    async def read(self, call: CallSid) -> tuple[int, Conversation | None]:
        self.reads.append(asyncio.Event())
        if not self.are_read:
            await self.reads[-1].wait()
        header = ConversationHeader(self._checkpoint, "", CallPersona(), record=True)
        return (3, Conversation(header, bytearray(4 * STEP_TOKENS))) if call in self._calls else (0, None)


class NoBus:
    """Nobody else is there."""

    async def publish(self, subject: str, message: object) -> None: ...


class OneNode(Exchange):
    """Asks nobody else for a slot."""

    async def ask(self, call_sid: CallSid, within_s: float = 0.0) -> Asked:
        return Asked(call_sid, {}, offers={"a": Offer(node="a", free=self._manager.free_slots)})

    async def place(self, asked: Asked, request: PlaceRequest) -> str | None:
        return await self.answer_here(request)


class Node:
    def __init__(self, logs: Logs) -> None:
        self.front = Front(max_calls=4)
        self.bus = bus = cast(Bus, NoBus())
        bus.name, bus.is_connected = "a", True  # type: ignore[misc]
        self.member = Member("https://a.example.com", "a-1", bus, self.front.manager, lambda: "new")
        self.hears(self.member.heartbeat())
        store: Any = logs
        self.exchange = OneNode(bus, self.member, cast(LogStore, store), self.front.manager, self.front.call_router)
        self.queue = ClusterQueue(bus, self.member, self.exchange, self.front.redirector, "https://phone.example.com")

    def hears(self, heartbeat: Heartbeat) -> None:
        self.member.directory.on_heartbeat(heartbeat, time.monotonic())


def request(call: CallSid, hook: Hook, epoch: int) -> PlaceRequest:
    return PlaceRequest.of(form(call, CallStatus="in-progress"), hook=hook, resumes=True, epoch=epoch, newest=3)


async def test_a_second_webhook_of_a_moved_call_whose_log_is_read_slower_leaves_the_stream_alone() -> None:
    for second in (4, 6):  # the epoch of the slower one, below or above that of the other
        logs = Logs({ANN}, "new")
        node = Node(logs)
        slower = asyncio.create_task(node.exchange.answer_here(request(ANN, Hook.AFTER_STREAM, second)))
        faster = asyncio.create_task(node.exchange.answer_here(request(ANN, Hook.VOICE, 5)))
        await settle()
        logs.reads[1].set()
        call = node.front.open_socket(twiml.parse(await faster or "")[0])
        for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1")):
            call.handle_event(event)
        logs.reads[0].set()
        assert isinstance(twiml.parse(await slower or "")[0], twiml.Connect)
        assert not call.over
        assert node.member.epoch(ANN) == 5
        assert call.request.record, "as make-call asked of the node that had the call"


def waits(node: Node, *callers: CallSid) -> list[CallSid]:
    return [caller for caller in callers if caller in node.member.callers]


async def test_a_call_whose_checkpoint_is_loaded_at_a_full_node_keeps_nobody_else_waiting() -> None:
    logs = Logs({ANN}, "old")
    logs.are_read = True
    node = Node(logs)
    node.hears(heartbeat("b", free=0, checkpoint="old"))
    await node.queue.enter(form(ANN, CallStatus="in-progress"), 1.0)
    await node.queue.enter(form(BOB, CallStatus="ringing"), 2.0)
    assert await node.queue.serve_one()
    assert not await node.queue.serve_one()
    assert waits(node, ANN, BOB) == [ANN]


async def test_a_call_whose_checkpoint_no_node_has_that_accepts_calls_begins_anew() -> None:
    logs = Logs({ANN}, "old")
    logs.are_read = True
    node = Node(logs)
    node.hears(heartbeat("b", checkpoint="old", draining=True))
    answer = await node.exchange.answer_here(request(ANN, Hook.VOICE, 4))
    call = node.front.open_socket(twiml.parse(answer or "")[0])
    assert call.session.conversation.steps == 0


async def test_a_call_with_a_token_of_another_node_is_answered_by_the_persona_it_was_sent_for() -> None:
    asked: list[tuple[str, str]] = []

    def choose(name: str, called: str, prompt: str) -> Chosen:
        asked.append((name, called))
        return Chosen()

    front, tokens = Front(choose=choose), FallbackTokens(Seal(["the-token"]), "AC1")
    node: Any = SimpleNamespace(
        name="b", announce=lambda: None, directory=Directory("b", "b-1"), epoch=lambda call_sid: 1
    )
    nothing: Any = None
    parts = (tokens, front.call_router, front.manager, 0)
    routing = ClusterRouting(nothing, node, nothing, nothing, nothing, *parts)
    wanted = VoiceRequest(caller="+15550100001", called="+15550100000", persona="ada", record=True)
    call = routing.claim(tokens.make("b", ANN, wanted, time.time()))
    assert call
    assert asked[0] == ("ada", "+15550100000")
    assert call.request.record
    assert (call.session.record.caller, call.session.record.called) == (wanted.caller, wanted.called)
