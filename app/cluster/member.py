"""What nodes know of each other: heartbeats in and out.

A heartbeat goes out every half second and at once when a call comes or ends, so that a repeated webhook finds it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.cluster.bus import Bus
from app.cluster.directory import HEARTBEAT_S, Directory
from app.cluster.messages import Heartbeat, Move
from app.cluster.waiting import WaitingCallers
from app.telemetry.version import software_version
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

MOVES_KEPT = 32
EPOCHS_KEPT = 1_000


class Member:
    """This node among the others; `boot` is the id of its process, `checkpoint` the digest of what it has loaded."""

    def __init__(self, url: str, boot: str, bus: Bus, manager: CallManager, checkpoint: Callable[[], str]) -> None:
        self.name, self.boot, self.url, self.checkpoint = bus.name, boot, url, checkpoint
        self.directory, self.callers = Directory(self.name, boot), WaitingCallers()
        self.moves: deque[Move] = deque(maxlen=MOVES_KEPT)
        """Calls that went on here, from another node."""
        self.moved = 0
        self.clocks_ahead_s: dict[str, float] = {}
        """How far the clock of each process is ahead of this one's, the way of a heartbeat included."""
        self._bus, self._manager = bus, manager
        self._epochs: dict[CallSid, int] = {}
        self._changed = asyncio.Event()
        self._heartbeats_sent = 0

    @property
    def is_connected(self) -> bool:
        return self._bus.is_connected

    @property
    def is_cut_off(self) -> bool:
        """Whether other nodes cannot be asked now."""
        return not self.is_connected or self.directory.is_isolated(time.monotonic())

    @property
    def calls(self) -> dict[CallSid, int]:
        """The phone calls that are on here, with their epochs."""
        on = [call.session.record.call_sid for call in self._manager.calls if not call.request.chat]
        return {call_sid: self.epoch(call_sid) for call_sid in on}

    def epoch(self, call_sid: CallSid) -> int:
        return self._epochs.get(call_sid, 1)

    def holds(self, call_sid: CallSid) -> int | None:
        """Return the epoch of a call that is, or was last, on here; None for another."""
        if self._manager.record(call_sid) is None:
            return None
        owner, epoch = self.directory.owner(call_sid), self.epoch(call_sid)
        return epoch if owner is None or owner.boot == self.boot or owner.epoch <= epoch else None

    def own(self, call_sid: CallSid, epoch: int) -> None:
        self._epochs.pop(call_sid, None)
        self._epochs[call_sid] = epoch
        if len(self._epochs) > EPOCHS_KEPT:
            on = self.calls
            self._epochs = {sid: one for sid, one in self._epochs.items() if sid in on or self._manager.record(sid)}

    def next_epoch(self, call_sid: CallSid) -> int:
        self.own(call_sid, self.epoch(call_sid) + 1)
        return self.epoch(call_sid)

    def is_loaded_elsewhere(self, checkpoint: str) -> bool:
        """Return whether another live node that accepts calls has loaded this checkpoint."""
        live = [seen.heartbeat for seen in self.directory.live(time.monotonic())]
        return any(one.checkpoint == checkpoint and not one.draining for one in live if one.boot != self.boot)

    def on_moved(self, call_sid: CallSid, came_from: str, steps: int) -> None:
        """A call goes on here, with so many steps of its log."""
        self.moves.append(Move(call=call_sid, from_node=came_from, moved_s=time.time(), steps=steps))
        self.moved += 1
        log.info("%s goes on here, from %s, after %d steps", call_sid, came_from or "a node that is gone", steps)

    def announce(self) -> None:
        """Send a heartbeat at once: a call has come or ended."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await self._bus.publish(f"hb.{self.name}", self.heartbeat())
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def say_bye(self) -> None:
        await self._bus.publish(f"hb.{self.name}", self.heartbeat(bye=True))

    def heartbeat(self, bye: bool = False) -> Heartbeat:
        manager = self._manager
        self._heartbeats_sent += 1
        return Heartbeat(
            node=self.name,
            boot=self.boot,
            url=self.url,
            slots=manager.slots,
            free=manager.free_slots if manager.ready else 0,
            calls={} if bye else self.calls,
            draining=manager.draining,
            bye=bye,
            waiting=len(self.callers),
            checkpoint=self.checkpoint()[:512],
            version=software_version(),
            moves=tuple(self.moves),
            number=self._heartbeats_sent,
        )

    def on_heartbeat(self, heartbeat: Heartbeat, _: str) -> None:
        """End the streams of calls that go on elsewhere."""
        ahead_s = heartbeat.sent_s - time.time()
        if not self.directory.is_new(heartbeat, ahead_s):
            self._bus.refused += 1
            return
        self.directory.on_heartbeat(heartbeat, time.monotonic())
        known = {seen.heartbeat.boot for seen in self.directory.nodes()}
        self.clocks_ahead_s = {boot: ahead for boot, ahead in self.clocks_ahead_s.items() if boot in known}
        self.clocks_ahead_s[heartbeat.boot] = ahead_s
        if heartbeat.boot == self.boot:
            return
        if heartbeat.node == self.name and not heartbeat.bye:
            log.warning("another process has this node's NODE_URL, or had it a moment ago")
        for call_sid in self.directory.lost_calls(self.calls):
            if call := self._manager.call(call_sid):
                call.end(EndReason.REPLACED, f"it went on at {heartbeat.node}")
