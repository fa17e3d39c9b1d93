"""One node of several, put together: its messages, its calls' logs, its moves."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from app.calls.active_call import ActiveCall
from app.calls.conversation_store import KEPT_S
from app.calls.drain import Drain
from app.calls.end_reason import LINE_ENDS, EndReason
from app.calls.manager import CallManager
from app.calls.observer import CallObserver
from app.calls.queue import CallRedirector, try_redirect
from app.calls.router import CallRouter
from app.calls.session import CallState, End
from app.cluster.bus import Bus
from app.cluster.exchange import Exchange
from app.cluster.failover import Failover
from app.cluster.fallback import FallbackTokens
from app.cluster.log_store import LogStore
from app.cluster.member import Member
from app.cluster.messages import DrainOrder, Heartbeat
from app.cluster.metrics import cluster_families
from app.cluster.queue import ClusterQueue
from app.cluster.routing import ClusterRouting
from app.cluster.seal import Seal
from app.cluster.view import cluster_view
from app.config import Settings
from app.logging import CallLogger
from app.telemetry.metrics.exposition import Family
from app.twilio.events import CallSid
from app.twilio.number import VOICE_PATH

log = logging.getLogger(__name__)

MOVE_EVERY_S = 0.1
MOVED_WITHIN_S = 10.0
"""How long a node that drains waits for its calls to leave."""
PURGE_AGAIN_S = 5.0
"""After how long a log that was not purged is purged again: servers that have lost a leader elect another."""


class ClusterNode:
    """`redirector` is Twilio's REST API; `checkpoint` returns the digest of what the engine has loaded."""

    def __init__(
        self,
        settings: Settings,
        boot: str,
        manager: CallManager,
        router: CallRouter,
        redirector: CallRedirector | None,
        checkpoint: Callable[[], str],
    ) -> None:
        seal = Seal(settings.twilio.auth_tokens)
        self._manager, self._redirector = manager, redirector
        self._voice_url = settings.server.base_url + VOICE_PATH
        self.bus = bus = Bus(settings.cluster, seal)
        self.member = Member(settings.cluster.node_url, boot, bus, manager, checkpoint)
        self.logs = LogStore(bus, settings.calls.max_seconds)
        self.exchange = Exchange(bus, self.member, self.logs, manager, router)
        self.queue = ClusterQueue(bus, self.member, self.exchange, redirector, self._voice_url)
        tokens = FallbackTokens(seal, settings.twilio.account_sid)
        self.routing = ClusterRouting(
            bus,
            self.member,
            self.exchange,
            self.queue,
            self.logs,
            tokens,
            router,
            manager,
            settings.calls.queue_length,
        )
        self.redirected = self.not_redirected = 0
        """Calls of other nodes for which Twilio was asked to come again, and those that it refused."""
        self._failover = Failover(self.member.directory)
        self._purges: dict[CallSid, float] = {}
        manager.on_slot_free = self.member.announce
        bus.on_change = self._on_connection

    def observe(self, call: ActiveCall) -> CallObserver | None:
        """Return what publishes a call's log; None for a chat, which cannot go on elsewhere."""
        return None if call.request.chat else _LogObserver(self, call)

    async def run(self, drain: Drain) -> None:
        """Be a node until cancelled, then say bye."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._join(drain, tasks), self.queue.run(), self._move()):
                    tasks.create_task(work)
        finally:
            await self.member.say_bye()
            await self.bus.close()

    async def _join(self, drain: Drain, tasks: asyncio.TaskGroup) -> None:
        """Reach NATS, however long that takes, and be one of the nodes from then on."""
        await self.bus.connect()
        for part in (self.exchange, self.queue, self.routing):
            await part.subscribe()
        await self.bus.subscribe("hb.*", Heartbeat, self.member.on_heartbeat)
        await self.bus.subscribe(f"drain.{self.member.name}", DrainOrder, lambda order, _: drain.begin(order.seconds))
        for work in (self.logs.prepare(), self.member.run(), self.logs.run(self.member.next_epoch)):
            tasks.create_task(work)

    def view(self) -> dict[str, object]:
        return cluster_view(self.member)

    def families(self) -> Iterator[Family]:
        return cluster_families(self)

    async def drain(self, node: str, seconds: int | None) -> bool:
        """Have a node drain; False if there is none of this name, or NATS is away."""
        known = {seen.heartbeat.node for seen in self.member.directory.live(time.monotonic())}
        if self.member.is_cut_off or node not in known:
            return False
        await self.bus.publish(f"drain.{node}", DrainOrder(seconds=seconds))
        return True

    async def move_calls(self) -> None:
        """Have Twilio ask again for the calls that are on here: other nodes, as this one drains, go on with them."""
        if self._redirector is None or self.member.is_cut_off:
            return
        calls = [call for call in self._manager.calls if call.session.state is CallState.LIVE and not call.request.chat]
        log.info("moving %d calls to other nodes", len(calls))
        await asyncio.gather(*(self._redirect(call.session.record.call_sid, "this node drains") for call in calls))
        try:
            async with asyncio.timeout(MOVED_WITHIN_S):
                await self._manager.no_calls.wait()
        except TimeoutError:
            log.warning("%d calls were not moved in time", self._manager.active_calls)

    def on_call_end(self, call: ActiveCall, end: End) -> None:
        """Keep the log of a call that may come back, here or elsewhere; purge that of one that is over."""
        record = call.session.record
        comes_back = end.reason in LINE_ENDS | {EndReason.SHUTDOWN, EndReason.NO_SOCKET} and not record.over
        if self.member.holds(record.call_sid) is None:
            self.logs.close(record.call_sid)
        else:
            self._purges[record.call_sid] = time.monotonic() + (KEPT_S if comes_back else 0.0)
        self.member.announce()

    def on_call(self, call: ActiveCall) -> None:
        call_sid = call.session.record.call_sid
        self._purges.pop(call_sid, None)
        self.logs.open(call, self.member.epoch(call_sid))
        self.member.announce()

    async def _move(self) -> None:
        """Redirect the calls of nodes that are silent, and purge the logs of those that are over, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(MOVE_EVERY_S)
                now = time.monotonic()
                if not self.bus.is_connected:
                    continue
                for call_sid, node in self._failover.due(now):
                    tasks.create_task(self._redirect(call_sid, f"{node} is silent"))
                for call_sid in [one for one, due_s in self._purges.items() if due_s <= now]:
                    del self._purges[call_sid]
                    if self.member.holds(call_sid) is not None:
                        tasks.create_task(self._purge(call_sid))
                    else:
                        self.logs.close(call_sid)

    async def _purge(self, call_sid: CallSid) -> None:
        if not await self.logs.purge(call_sid) and self._manager.call(call_sid) is None:
            self._purges[call_sid] = time.monotonic() + PURGE_AGAIN_S

    async def _redirect(self, call_sid: CallSid, why: str) -> None:
        if self._redirector is None:
            return
        if await try_redirect(self._redirector, call_sid, self._voice_url, CallLogger(log, call_sid), why):
            self.redirected += 1
        else:
            self.not_redirected += 1

    def _on_connection(self, is_connected: bool) -> None:
        if is_connected:
            self.routing.on_connected()
            self.logs.on_reconnect()
        else:
            self.member.directory.on_disconnect()


class _LogObserver(CallObserver):
    """Has the log of a call published while the call is on."""

    def __init__(self, node: ClusterNode, call: ActiveCall) -> None:
        self._node, self._call = node, call

    def on_reserved(self, now: float) -> None:
        self._node.on_call(self._call)

    def on_end(self, end: End, now: float) -> None:
        self._node.on_call_end(self._call, end)
