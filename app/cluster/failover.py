"""Who has Twilio ask again for the calls of a node that is silent, and when.

Of the live nodes, the first by the rendezvous hash of the CallSid redirects a call; if its owner has not changed a
second later, the next one does. Most calls of a dead node have moved by themselves by then: their sockets broke, and
Twilio asked `action`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from app.cluster.directory import SILENT_S, Directory, Seen
from app.twilio.events import CallSid

NEXT_AFTER_S = 1.0


def rendezvous(key: str, names: Iterable[str]) -> list[str]:
    """Return the names in an order that depends on `key`: each comes first for an equal share of all keys."""
    return sorted(set(names), key=lambda name: blake2b(f"{key} {name}".encode(), digest_size=8).digest())


@dataclass
class Failover:
    """Decides for one node; `now` in seconds, monotonic."""

    directory: Directory
    _moved: set[tuple[CallSid, int]] = field(default_factory=set)
    """Calls with their epochs that this node has redirected, of nodes that are still silent."""

    def due(self, now: float) -> list[tuple[CallSid, str]]:
        """Return the calls that this node is to redirect now, once each, with the node that is silent."""
        if not self.directory.is_settled(now):
            return []
        live, silent = [seen.heartbeat.node for seen in self.directory.live(now)], self.directory.silent(now)
        owned = {(call, epoch): seen for seen in silent for call, epoch in self.directory.calls_of(seen)}
        self._moved &= owned.keys()
        due = [one for one, seen in owned.items() if one not in self._moved and self._turn(one[0], seen, live) <= now]
        self._moved.update(due)
        return [(one[0], owned[one].heartbeat.node) for one in due]

    def _turn(self, call: CallSid, seen: Seen, live: list[str]) -> float:
        """Return when it is this node's turn to redirect a call."""
        since_s = max(seen.received_s + SILENT_S, self.directory.settles_s)
        order = rendezvous(call, [*live, self.directory.name])
        return since_s + order.index(self.directory.name) * NEXT_AFTER_S
