"""Which node gets a call: ask all, choose the freest.

The node that has the call already comes first, unless it drains: a repeated webhook needs no second slot. `now` is in
seconds, monotonic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.cluster.directory import Directory, Seen
from app.cluster.failover import rendezvous
from app.cluster.messages import Heartbeat, Offer
from app.twilio.events import CallSid

ASK_WITHIN_S = 0.05
PLACE_WITHIN_S = 0.3


@dataclass
class Asked:
    """The offers for one call, of the nodes that were `live` when all were asked, by name with their heartbeats.

    One that has not answered in time counts as its heartbeat says: the call's `owner`, or a node with free slots.
    """

    call: CallSid
    live: Mapping[str, Heartbeat]
    owner: str = ""
    offers: dict[str, Offer] = field(default_factory=dict)

    def add(self, offer: Offer) -> bool:
        """Add an offer; return whether all have answered."""
        self.offers[offer.node] = offer
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        return self.offers.keys() >= self.live.keys()

    @property
    def epoch(self) -> int:
        """The highest epoch that an offer names, 0 for none."""
        return max((offer.holds or 0 for offer in self.offers.values()), default=0)

    @property
    def holder(self) -> str:
        """The node with that epoch, "" if none has one."""
        return max(self.offers.values(), key=lambda offer: offer.holds or 0).node if self.epoch else ""

    def candidates(self, knows_end: bool = False) -> list[str]:
        """Return whom to ask for a slot, in this order; among equally free ones the order depends on the call.

        A node that drains and has the call is asked as well if it `knows_end`: whether the call is over.
        """
        offers = [*self.offers.values(), *self._assumed()]
        order = rendezvous(self.call, [one.node for one in offers])
        holders = [one for one in offers if one.holds and (knows_end or not one.draining)]
        free = [one for one in offers if one.free and not one.draining and one not in holders]
        holders.sort(key=lambda one: -(one.holds or 0))
        free.sort(key=lambda one: (one.node not in self.offers, -one.free, order.index(one.node)))
        return [one.node for one in (*holders, *free)]

    def _assumed(self) -> list[Offer]:
        return [
            Offer(node=name, free=heartbeat.free, draining=heartbeat.draining, holds=1 if name == self.owner else None)
            for name, heartbeat in self.live.items()
            if name not in self.offers
        ]


def last_known(directory: Directory, given: dict[str, int]) -> Seen | None:
    """Return the node that was freest when NATS went away, less what was `given` there since; None if none was."""
    newest_s = max((seen.received_s for seen in directory.nodes()), default=0.0)
    others = [seen for seen in directory.live(newest_s) if not seen.heartbeat.draining]
    others = [seen for seen in others if seen.heartbeat.boot != directory.boot]
    free = {seen.heartbeat.boot: seen.heartbeat.free - given.get(seen.heartbeat.boot, 0) for seen in others}
    best = max(others, key=lambda seen: free[seen.heartbeat.boot], default=None)
    return best if best and free[best.heartbeat.boot] > 0 else None
