"""The callers who wait for a slot of any node, first come first served.

Every node knows all of them, because the nodes send each other who waits since when. One node, the first of the live
ones by a rendezvous hash, gives the first caller a slot as soon as any node has a free one. `now` is in seconds,
monotonic; `since_s` in seconds since 1970.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.cluster.failover import rendezvous
from app.cluster.messages import Wait
from app.twilio.events import CallSid

ASKS_WITHIN_S = 20.0
"""A caller of whom no wait page has been asked for so long has hung up, though nobody said so."""
MOST_WAITING = 1_000


@dataclass
class WaitingCallers:
    """Those who wait, by CallSid."""

    _waits: dict[CallSid, tuple[Wait, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, call: CallSid) -> bool:
        return call in self._waits

    def add(self, wait: Wait, now: float) -> None:
        """Add a caller; one who waits already keeps the earlier place."""
        if len(self._waits) < MOST_WAITING or wait.call in self._waits:
            first, _ = self._waits.get(wait.call, (wait, now))
            self._waits[wait.call] = (min(first, wait, key=lambda one: one.since_s), now)

    def remove(self, call: CallSid) -> None:
        self._waits.pop(call, None)

    def in_order(self, now: float) -> list[Wait]:
        """Return all, the first to be served first."""
        self.drop_gone(now)
        return sorted((wait for wait, _ in self._waits.values()), key=lambda one: (one.since_s, one.call))

    def drop_gone(self, now: float) -> None:
        """Remove those who have left, though nobody said so or NATS was away."""
        for call in [call for call, (_, asked_s) in self._waits.items() if now - asked_s > ASKS_WITHIN_S]:
            del self._waits[call]


def leads(name: str, live: Iterable[str]) -> bool:
    """Return whether this node is the one that gives slots to those who wait."""
    return rendezvous("line", [name, *live])[0] == name
