"""Nodes without processes of their own: router, manager and rules are the real ones, NATS too; workers are a list."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from app.calls.active_call import ActiveCall
from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.router import CallRouter
from app.cluster.messages import node_name
from app.cluster.node import ClusterNode
from app.twilio import twiml
from app.twilio.errors import CarrierError
from app.twilio.events import CallSid, Connected, Started, StreamSid
from app.twilio.form import Form
from app.twilio.public_address import PublicAddress
from tests.app.cluster.nodes import ACCOUNT, PUBLIC, node_settings
from tests.waiting import until
from workers.messages import Message


def form(call_sid: CallSid, query: str = "", **fields: str) -> Form:
    given = {"CallSid": call_sid, "From": "+15550100001", "To": "+15550100000", "CallStatus": "ringing"}
    return Form(call_sid, {**given, **fields}, query)


@dataclass
class Redirects:
    """Keeps whom it is asked to redirect, in order; refuses if it `fails`."""

    calls: list[CallSid] = field(default_factory=list)
    fails: bool = False

    async def redirect(self, call_sid: CallSid, url: str) -> None:
        if self.fails:
            raise CarrierError("HTTP 500")
        assert url == f"{PUBLIC}/twilio/voice"
        self.calls.append(call_sid)


class LightNode:
    """One node; its calls believe that time is `ahead_s` later than it is."""

    def __init__(self, nats_url: str, number: int, redirects: Redirects, **settings: object) -> None:
        self.sent: list[Message] = []
        self.ahead_s = 0.0
        url = f"http://node-{number}.example.com"
        wanted = {"engine": "loopback", "codec": "loopback", "max_calls": 8, "node_url": url, **settings}
        read = node_settings(nats_url, **wanted)
        self.manager = CallManager(
            read,
            self.sent.append,
            lambda: True,
            [lambda call: self.node.observe(call)],
            clock=lambda: time.monotonic() + self.ahead_s,
        )
        public = PublicAddress(read)
        router = CallRouter(read, public, self.manager, CallQueue(self.manager, 10, None, public))
        self.node = ClusterNode(read, f"boot-{number}-{time.monotonic_ns()}", self.manager, router, redirects, str)
        self.manager.start_accepting(read.calls.slots, processing_s=0.0)
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.node.member.name

    async def answer(self, call_sid: CallSid, query: str = "", token: str = "", **fields: str) -> twiml.Verb:
        """Return the first verb of what a voice webhook is answered here."""
        return twiml.parse(await self.node.routing.answer(form(call_sid, query, **fields), token))[0]

    def connect(self, verb: twiml.Verb) -> ActiveCall | None:
        """Open the socket of an answer that may be this node's; None if it is refused."""
        assert isinstance(verb, twiml.Connect)
        return self.node.routing.claim(verb.url.rpartition("/")[2])

    def begin(self, verb: twiml.Verb, call_sid: CallSid) -> ActiveCall:
        """Open the socket and start the stream."""
        call = self.connect(verb)
        assert call is not None
        call.handle_event(Connected())
        call.handle_event(Started(StreamSid("MZ1"), call_sid, ACCOUNT))
        return call

    def let_reservations_expire(self) -> None:
        self.ahead_s += 25.0
        for call in self.manager.calls:
            call.handle_timer()

    def start(self) -> None:
        self._task = asyncio.create_task(self.node.run(Drain(self.manager, 0, asyncio.Event())))

    async def stop(self) -> None:
        assert self._task
        self._task.cancel()
        await asyncio.wait({self._task})
        self.manager.stop()


@dataclass
class LightCluster:
    nodes: list[LightNode]
    redirects: Redirects

    def of(self, verb: twiml.Verb) -> LightNode:
        """Return the node to which an answer leads."""
        assert isinstance(verb, twiml.Connect), verb
        (node,) = [one for one in self.nodes if node_name(verb.url) == one.name]
        return node

    @property
    def free(self) -> list[int]:
        return [node.manager.free_slots for node in self.nodes]

    async def settle(self) -> None:
        """Wait until each node sees all of them as they are now."""
        await until(lambda: all(self._is_seen(node) for node in self.nodes))

    async def until_logged(self, call_sid: CallSid, steps: int) -> None:
        """Wait until the log of a call with so many steps can be read."""

        async def is_logged() -> bool:
            _, conversation = await self.nodes[0].node.logs.read(call_sid)
            return conversation is not None and conversation.steps == steps

        await until(is_logged)

    def _is_seen(self, node: LightNode) -> bool:
        member = node.node.member
        seen = {one.heartbeat.node: one.heartbeat.free for one in member.directory.live(time.monotonic())}
        return not member.is_cut_off and seen == {one.name: one.manager.free_slots for one in self.nodes}


@contextlib.asynccontextmanager
async def light_nodes(nats_url: str, count: int = 3, **settings: object) -> AsyncIterator[LightCluster]:
    redirects = Redirects()
    nodes = [LightNode(nats_url, number, redirects, **settings) for number in range(count)]
    async with running_nodes(nodes, redirects) as made:
        yield made


@contextlib.asynccontextmanager
async def running_nodes(nodes: list[LightNode], redirects: Redirects) -> AsyncIterator[LightCluster]:
    """Run these nodes until the block ends."""
    for node in nodes:
        node.start()
    made = LightCluster(nodes, redirects)
    try:
        await made.settle()
        yield made
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
