"""Nodes on the loopback engine whose tokens are a hash of all before them, so that a call's log proves its memory."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import nats
import numpy as np
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError, ServerError

from app.calls.conversation import STEP_BYTES, Conversation
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, HOST, LOOPBACK, ServiceProcess, free_port, start_service
from app.cluster.messages import node_name
from app.cluster.seal import Seal
from app.cluster.token_log import LogReader
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.remote import EndCall, Remote
from app.simulator.report import CallReport
from app.twilio.events import CallSid
from tests.app.cluster.nodes import sid
from tests.nodes.balancer import Balancer
from tests.nodes.nats_servers import NatsServers, nats_servers
from tests.processes.pipeline import PATIENCE_S
from tests.twilio_rest.account import Account
from tests.twilio_rest.server import FakeRest, serving_rest
from tests.waiting import until

HASH = {**LOOPBACK, "MOSHI_CHECKPOINT": "synthetic:hash"}
OWN_TOKENS = 9
STEPS_WITHIN_S = 240.0
"""Calls in real time on a busy machine."""
LOOK_AGAIN_S = 0.5
CALL_S = 1_200.0
"""Longer than any test; the calls end when they are told."""
READ_WITHIN_S = 10.0
"""An ordered consumer ends with its server; then the log is read anew."""

Found = TypeVar("Found")


@dataclass
class NodeProcess:
    """A running node, and what stops it."""

    service: ServiceProcess
    stack: contextlib.AsyncExitStack

    @property
    def name(self) -> str:
        return node_name(self.service.base_url)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.service.process_id, number)


@dataclass
class Cluster:
    """Nodes behind one address, with a Twilio account of their own."""

    folder: Path
    nats: NatsServers
    balancer: Balancer
    rest: FakeRest
    settings: dict[str, str]
    nodes: dict[str, NodeProcess] = field(default_factory=dict)
    remotes: dict[str, Remote] = field(default_factory=dict)
    calls: list["asyncio.Task[CallReport]"] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    """The calls that went on at another node, as tests expect it."""

    async def start_node(self, **settings: str) -> NodeProcess:
        port, stack = free_port(), contextlib.AsyncExitStack()
        url = f"http://{HOST}:{port}"
        environment = {
            **HASH,
            "PUBLIC_URL": self.balancer.url,
            "NODE_URL": url,
            "NATS_URL": self.nats.url,
            "TWILIO_API_URL": self.rest.url,
            "OPERATOR_TOKEN": "",
            **self.settings,
            **settings,
        }
        service = await stack.enter_async_context(start_service(environment, self.folder / f"{port}.log", port))
        node = self.nodes[url] = NodeProcess(service, stack)
        self.balancer.nodes.append(url)
        return node

    async def remove(self, node: NodeProcess) -> None:
        """Take a node out of the balancer and stop its process, if it has not stopped."""
        self.unlist(node)
        with contextlib.suppress(ProcessLookupError):
            node.signal(signal.SIGCONT)
        self.nodes.pop(node.service.base_url, None)
        await node.stack.aclose()

    def unlist(self, node: NodeProcess) -> None:
        if node.service.base_url in self.balancer.nodes:
            self.balancer.nodes.remove(node.service.base_url)

    def start_calls(self, numbers: Sequence[int], **options: object) -> None:
        self.calls += [asyncio.create_task(self._call(sid(number), **options)) for number in numbers]

    async def end_calls(self) -> list[CallReport]:
        """Have all callers hang up; return how the calls went."""
        for remote in self.remotes.values():
            remote.send(EndCall())
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*self.calls)

    async def _call(self, call_sid: CallSid, **options: object) -> CallReport:
        remote = self.remotes[call_sid] = Remote()
        self.rest.adopt(call_sid, remote.send)
        wanted = CallOptions(
            self.balancer.url,
            AUTH_TOKEN,
            ACCOUNT_SID,
            duration_s=CALL_S,
            call_sid=call_sid,
            status_path="/twilio/status",
            **options,  # type: ignore[arg-type]
        )
        return await simulate(wanted, lambda progress: None, remote)

    async def on_at(self, node: NodeProcess) -> set[str]:
        """Return the calls that are on at a node, by its own word."""
        calls = (await node.service.get("/api/live"))["calls"]
        return {call["call_sid"] for call in calls}

    async def until_steps(self, wanted: Mapping[int, int]) -> None:
        """Wait until each call has made so many steps, and check that it has forgotten nothing."""
        for number, conversation in (await self.until_logged(wanted)).items():
            assert forgotten_at(conversation) is None, number

    async def until_more_steps(self, numbers: Sequence[int], more: int) -> None:
        """Wait as `until_steps` does until each call has made so many more than it has now."""
        steps = await self.last_steps(*numbers)
        await self.until_steps({number: steps[number] + more for number in numbers})

    async def until_logged(
        self, wanted: Mapping[int, int], within_s: float = STEPS_WITHIN_S
    ) -> dict[int, Conversation]:
        """Wait until each call has made so many steps, and return its log, in which none is missing."""
        found, last = dict[int, Conversation](), dict[int, int]()
        try:
            async with asyncio.timeout(within_s):
                while left := [number for number in wanted if number not in found]:
                    last = await self.last_steps(*left)
                    for number in [number for number in left if last[number] >= wanted[number]]:
                        (conversation,) = await self.logs(number)
                        if conversation and conversation.skipped == 0 and conversation.steps >= wanted[number]:
                            found[number] = conversation
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            made = {number: last.get(number) for number in wanted if number not in found}
            pytest.fail(f"there are not so many steps, or not whole logs of them: {made}, wanted {wanted}")
        return found

    async def until_moved(self, calls: Collection[str], node: NodeProcess) -> None:
        """Wait until these calls, and no other, are said to have moved away from a node."""
        self.moved |= set(calls)
        await until(partial(self._have_moved, set(calls), node))
        assert await self.moved_from(node) == set(calls)

    async def _have_moved(self, calls: set[str], node: NodeProcess) -> bool:
        return calls <= await self.moved_from(node)

    async def moved_from(self, node: NodeProcess) -> set[str]:
        views = [await other.service.get("/api/cluster") for other in self.nodes.values() if other is not node]
        return {move["call_sid"] for view in views for move in view["moves"] if move["from"] == node.name}

    async def until_ready(self) -> None:
        """Wait until each node sees all others and hears itself."""
        for node in self.nodes.values():
            await until(partial(self._sees_all, node))

    async def _sees_all(self, node: NodeProcess) -> bool:
        view = await node.service.get("/api/cluster")
        live = {one["node"] for one in view["nodes"] if one["state"] == "live"}
        return not view["cut_off"] and live >= {one.name for one in self.nodes.values()}

    @property
    def redirects(self) -> int:
        """How many times Twilio was asked to come again for a call."""
        return len([path for path, form in self.rest.asked if "Url" in dict(form)])

    async def busiest(self) -> tuple[NodeProcess, set[str]]:
        """Return the node with most calls, and these."""
        on = [(node, await self.on_at(node)) for node in self.nodes.values()]
        return max(on, key=lambda one: len(one[1]))

    async def until_free(self, slots: int) -> None:
        """Wait until each node has so many free slots."""
        for node in self.nodes.values():
            await until(partial(_has_free, node, slots))

    async def last_steps(self, *numbers: int) -> dict[int, int]:
        """Return how many steps of each call the last record of its log tells of."""
        ends = await self._ask(_last_step, numbers)
        return dict(zip(numbers, ends, strict=True))

    async def logs(self, *numbers: int) -> list[Conversation | None]:
        """Return the token logs as they are in JetStream now."""
        return await self._ask(_read_log, numbers)

    async def _ask(self, read: Callable[[Client, str], Awaitable[Found]], numbers: Sequence[int]) -> list[Found]:
        """Read of each call; servers that have to elect a leader first are asked again."""
        connection = await nats.connect(self.nats.url.split(","))
        try:
            async with asyncio.timeout(STEPS_WITHIN_S):
                return [await _ask_until_answered(read, connection, sid(number)) for number in numbers]
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def cluster(folder: Path, nodes: int = 3, servers: int = 1, **settings: str) -> AsyncIterator[Cluster]:
    """Run nodes with these settings until the block ends."""
    async with (
        nats_servers(folder, servers) as running,
        Balancer().serving() as balancer,
        serving_rest(Account(ACCOUNT_SID, AUTH_TOKEN)) as rest,
    ):
        made = Cluster(folder, running, balancer, rest, settings)
        try:
            await asyncio.gather(*(made.start_node() for _ in range(nodes)))
            await made.until_ready()
            yield made
        finally:
            await asyncio.gather(*(made.remove(node) for node in [*made.nodes.values()]))


async def _ask_until_answered(
    read: Callable[[Client, str], Awaitable[Found]], connection: Client, call_sid: str
) -> Found:
    while True:
        with contextlib.suppress(nats.errors.Error, ServerError, TimeoutError):
            async with asyncio.timeout(READ_WITHIN_S):
                return await read(connection, call_sid)
        await asyncio.sleep(LOOK_AGAIN_S)


async def _last_step(connection: Client, call_sid: str) -> int:
    try:
        last = await connection.jetstream().get_last_msg("moshi-calls", f"calls.{call_sid}.*")
    except NotFoundError:
        return 0
    record = _opened(last.subject, last.data)
    if record.startswith(b"{"):
        return int(json.loads(record)["resumed"])
    return int.from_bytes(record[1:5], "little") + (len(record) - 5) // STEP_BYTES


async def _read_log(connection: Client, call_sid: str) -> Conversation | None:
    stream, reader = connection.jetstream(), LogReader()
    try:
        last = (await stream.get_last_msg("moshi-calls", f"calls.{call_sid}.*")).seq
    except NotFoundError:
        return None
    subscription = await stream.subscribe(f"calls.{call_sid}.*", stream="moshi-calls", ordered_consumer=True)
    async for message in subscription.messages:
        reader.add(int(message.subject.rpartition(".")[2]), _opened(message.subject, message.data))
        if message.metadata.sequence.stream >= (last or 0):
            break
    await subscription.unsubscribe()
    return reader.conversation()


def _opened(subject: str | None, data: bytes | None) -> bytes:
    record = Seal([AUTH_TOKEN]).open(subject or "", data or b"")
    assert record is not None
    return record


async def _has_free(node: NodeProcess, slots: int) -> bool:
    return bool((await node.service.get("/readyz"))["free_slots"] == slots)


def forgotten_at(conversation: Conversation) -> int | None:
    """Return the first step whose tokens are not the hash of all before it, None if the memory is whole."""
    assert conversation.skipped == 0
    hashed = blake2b()
    for step in range(conversation.steps):
        tokens = bytes(conversation.log[step * STEP_BYTES : (step + 1) * STEP_BYTES])
        own = np.frombuffer(hashed.digest(), "<u2")[:OWN_TOKENS] & 2_047
        if not np.array_equal(own, np.frombuffer(tokens, "<i2")[:OWN_TOKENS]):
            return step
        hashed.update(tokens)
    return None
