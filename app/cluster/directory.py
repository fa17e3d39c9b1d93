"""Which nodes there are and which owns a call, by their heartbeats; `now` in seconds, monotonic.

Theory of operation. A node is *live* while its heartbeats come, *silent* when none has come for `SILENT_S`. Of two
nodes that claim a call, the one with the higher epoch owns it: a node that wakes up late changes nothing. A node that
does not receive its own heartbeats is *isolated*: it cannot know which nodes are silent, and must do nothing. Nor must
one that has just begun to receive again: it is *settled* after `SETTLE_S`, by when all others have sent heartbeats.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from app.cluster.messages import FRESH_S, Heartbeat
from app.twilio.events import CallSid

HEARTBEAT_S = 0.5
SILENT_S = 1.5
ECHO_WITHIN_S = 0.8
"""A node whose own heartbeats take longer to come back is not settled and moves no calls: shorter than `SILENT_S`."""
SETTLE_S = 2 * SILENT_S
REMEMBERED_S = 120.0
"""How long a silent node is kept: for its name on the page, and as the last-known owner of its calls."""
MOST_NODES = 1_000


@dataclass(frozen=True, slots=True)
class Seen:
    """The last heartbeat of a process, and when it was received."""

    heartbeat: Heartbeat
    received_s: float

    def is_silent(self, now: float) -> bool:
        return now - self.received_s >= SILENT_S


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a call: the highest epoch; of two equal ones, chosen at once by two nodes, the greater name."""

    epoch: int
    node: str
    boot: str

    def __lt__(self, other: "Owner") -> bool:
        return (self.epoch, self.node, self.boot) < (other.epoch, other.node, other.boot)


@dataclass
class Directory:
    """The nodes as one of them, `name`, sees them; `boot` tells its process from an earlier one."""

    name: str
    boot: str
    _seen: dict[str, Seen] = field(default_factory=dict)  # by boot
    _owners: dict[CallSid, Owner] = field(default_factory=dict)
    _echo_s: float = float("-inf")
    _receiving_since_s: float = float("inf")

    def on_heartbeat(self, heartbeat: Heartbeat, now: float) -> None:
        if (heartbeat.node, heartbeat.boot) == (self.name, self.boot):
            self._on_echo(now)
        if heartbeat.bye:
            self._remove(heartbeat.boot)
            return
        if heartbeat.boot not in self._seen:
            self._silence_namesakes(heartbeat)
        self._seen[heartbeat.boot] = Seen(heartbeat, now)
        self._forget(now)
        self._set_owners(heartbeat)

    def is_new(self, heartbeat: Heartbeat, ahead_s: float) -> bool:
        """Return whether a heartbeat, whose clock is so far ahead of this one's, was not recorded and sent once more.

        That of a known process has a higher number than its last one: its clock may jump, and it is not dead then.
        """
        if seen := self._seen.get(heartbeat.boot):
            return heartbeat.node == seen.heartbeat.node and heartbeat.number > seen.heartbeat.number
        return abs(ahead_s) <= FRESH_S

    def on_disconnect(self) -> None:
        """NATS is away: from now on missing heartbeats mean nothing."""
        self._echo_s, self._receiving_since_s = float("-inf"), float("inf")

    def is_isolated(self, now: float) -> bool:
        return now - self._echo_s >= SILENT_S

    def is_settled(self, now: float) -> bool:
        """Whether silence of others can be trusted."""
        return now - self._echo_s < ECHO_WITHIN_S and now - self._receiving_since_s >= SETTLE_S

    @property
    def settles_s(self) -> float:
        """When this node is settled if its own heartbeats keep coming."""
        return self._receiving_since_s + SETTLE_S

    def nodes(self) -> list[Seen]:
        """Return all that are known, by name."""
        return sorted(self._seen.values(), key=lambda one: (one.heartbeat.node, one.received_s))

    def live(self, now: float) -> list[Seen]:
        return [one for one in self.nodes() if not one.is_silent(now)]

    def silent(self, now: float) -> list[Seen]:
        """Return the others that are silent."""
        return [one for one in self.nodes() if one.is_silent(now) and one.heartbeat.boot != self.boot]

    def owner(self, call: CallSid) -> Owner | None:
        return self._owners.get(call)

    def calls_of(self, seen: Seen) -> Iterator[tuple[CallSid, int]]:
        """Yield the calls that a node still owns, with their epochs."""
        for call, epoch in seen.heartbeat.calls.items():
            if self._owners.get(call) == Owner(epoch, seen.heartbeat.node, seen.heartbeat.boot):
                yield call, epoch

    def lost_calls(self, mine: dict[CallSid, int]) -> list[CallSid]:
        """Return which of this node's calls, given with their epochs, go on at another node."""
        return [
            call
            for call, epoch in mine.items()
            if (owner := self._owners.get(call)) and owner.boot != self.boot and epoch < owner.epoch
        ]

    def _on_echo(self, now: float) -> None:
        if now - self._echo_s >= ECHO_WITHIN_S:
            self._receiving_since_s = now
        self._echo_s = now

    def _silence_namesakes(self, heartbeat: Heartbeat) -> None:
        """Mark an earlier process of the same name as silent, at once: its calls go on elsewhere."""
        for boot, seen in self._seen.items():
            if seen.heartbeat.node == heartbeat.node and boot != self.boot:
                self._seen[boot] = Seen(seen.heartbeat, seen.received_s - SILENT_S)

    def _forget(self, now: float) -> None:
        """Remove nodes that have been silent for long, and the longest silent one if there are too many."""
        gone = [boot for boot, seen in self._seen.items() if now - seen.received_s > REMEMBERED_S]
        if len(self._seen) > MOST_NODES:
            gone.append(min(self._seen, key=lambda boot: self._seen[boot].received_s))
        for boot in gone:
            self._remove(boot)

    def _remove(self, boot: str) -> None:
        self._seen.pop(boot, None)
        self._owners = {call: one for call, one in self._owners.items() if one.boot != boot}

    def _set_owners(self, heartbeat: Heartbeat) -> None:
        for call, epoch in heartbeat.calls.items():
            claimed, known = Owner(epoch, heartbeat.node, heartbeat.boot), self._owners.get(call)
            if known is None or known < claimed:
                self._owners[call] = claimed
        over = [
            call for call, one in self._owners.items() if one.boot == heartbeat.boot and call not in heartbeat.calls
        ]
        for call in over:
            del self._owners[call]
