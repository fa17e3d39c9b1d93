"""What a node tells the others about itself, and what it hears from them: heartbeats in and out.

A heartbeat goes out every half second and at once when a call comes or ends, so that a repeated webhook finds it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from app.calls.manager import CallManager
from app.calls.record import EndReason
from app.cluster.bus import Bus
from app.cluster.directory import HEARTBEAT_S, Directory
from app.cluster.messages import Heartbeat, Move, node_name
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

MOVES_KEPT = 32
EPOCHS_KEPT = 1_000


class Member:
    """This node among the others; `boot` tells its process from an earlier one."""

    def __init__(self, node_url: str, boot: str, bus: Bus, manager: CallManager) -> None:
        self.name, self.boot, self.url = node_name(node_url), boot, node_url
        self.directory = Directory(self.name, boot)
        self.moves: deque[Move] = deque(maxlen=MOVES_KEPT)
        """Calls that went on here, from another node."""
        self.moved = 0
        self.clocks_ahead_s: dict[str, float] = {}
        """How far the clock of each process is ahead of this one's, the way of a heartbeat included."""
        self.waiting: Callable[[], int] = lambda: 0
        self.checkpoint: Callable[[], str] = lambda: ""
        self._bus, self._manager = bus, manager
        self._epochs: dict[CallSid, int] = {}
        self._changed = asyncio.Event()
        self._beats = 0

    @property
    def is_cut_off(self) -> bool:
        """Whether other nodes cannot be asked now."""
        return not self._bus.is_connected or self.directory.is_deaf(time.monotonic())

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
        """Claim a call."""
        self._epochs.pop(call_sid, None)
        self._epochs[call_sid] = epoch
        if len(self._epochs) > EPOCHS_KEPT:
            on = self.calls
            self._epochs = {sid: one for sid, one in self._epochs.items() if sid in on or self._manager.record(sid)}

    def next_epoch(self, call_sid: CallSid) -> int:
        self.own(call_sid, self.epoch(call_sid) + 1)
        return self.epoch(call_sid)

    def on_moved(self, call_sid: CallSid, came_from: str, steps: int) -> None:
        """A call goes on here, with so many steps of its log."""
        self.moves.append(Move(call=call_sid, from_node=came_from, moved_s=time.time(), steps=steps))
        self.moved += 1
        log.info("%s goes on here, from %s, after %d steps", call_sid, came_from or "a node that is gone", steps)

    def announce(self) -> None:
        """Tell the others soon: a call has come or ended."""
        self._changed.set()

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
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
        self._beats += 1
        return Heartbeat(
            node=self.name,
            boot=self.boot,
            url=self.url,
            slots=manager.slots,
            free=manager.free_slots if manager.ready else 0,
            calls={} if bye else self.calls,
            draining=manager.draining,
            bye=bye,
            waiting=self.waiting(),
            checkpoint=self.checkpoint()[:512],
            version=software_version(),
            moves=tuple(self.moves),
            number=self._beats,
        )

    def on_heartbeat(self, beat: Heartbeat, _: str) -> None:
        """End the streams of calls that go on elsewhere."""
        ahead_s = beat.sent_s - time.time()
        if not self.directory.is_new(beat, ahead_s):
            self._bus.refused += 1
            return
        self.directory.on_heartbeat(beat, time.monotonic())
        known = {seen.beat.boot for seen in self.directory.nodes()}
        self.clocks_ahead_s = {boot: ahead for boot, ahead in self.clocks_ahead_s.items() if boot in known}
        self.clocks_ahead_s[beat.boot] = ahead_s
        if beat.boot == self.boot:
            return
        if beat.node == self.name and not beat.bye:
            log.warning("another process has this node's NODE_URL, or had it a moment ago")
        for call_sid in self.directory.lost_calls(self.calls):
            if call := self._manager.call(call_sid):
                call.end(EndReason.REPLACED, f"it went on at {beat.node}")


def software_version() -> str:
    try:
        return version("moshi-bridge")
    except PackageNotFoundError:  # in a container there are only the files
        return "unknown"
