"""What one run of cloudflared needs next; no I/O, `now` in seconds.

Theory of operation. cloudflared is STARTING until it has a URL and a live connection to Cloudflare's edge. A quick
tunnel's name exists before its DNS record does, and to ask too early makes resolvers remember that there is none: so
the first proof waits a little, the next ones wait longer each time (PROVING). A proof that succeeds opens the service
(OPEN). When the edge connection is lost (SHAKY) cloudflared mends it by itself; calls may even go on, so nothing is
closed, but the way is proved again afterwards. Another URL is proved like a first one. What takes too long is ended by
a restart, which gets a quick tunnel a new name, and with it a DNS record that nobody has asked for yet.
"""

from dataclasses import dataclass
from enum import Enum, auto

BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)


class State(Enum):
    """How far a run of cloudflared has come."""

    STARTING = auto()
    PROVING = auto()
    OPEN = auto()
    SHAKY = auto()


@dataclass(frozen=True, slots=True)
class Look:
    """What the metrics port says: the URL if there is one, and whether a connection to the edge is live."""

    url: str | None
    connected: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Send a signed socket through `url` now, and report."""

    url: str


@dataclass(frozen=True, slots=True)
class Restart:
    """End this cloudflared and start another; `reason` is for the log."""

    reason: str


Step = Wait | Prove | Restart


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each state may last, and how long to wait before each proof, all in seconds."""

    connect_s: float = 60.0
    prove_s: float = 300.0
    shaky_s: float = 90.0
    first_proof_s: float = 5.0
    next_proof_s: tuple[float, ...] = (3.0, 5.0, 10.0, 20.0, 30.0)


class TunnelCourse:
    """One run of cloudflared, from its start to the wish for a restart."""

    def __init__(self, now: float, patience: Patience | None = None) -> None:
        self.state = State.STARTING
        self._patience = patience or Patience()
        self._url: str | None = None
        self._since_s = now
        self._proof_due_s = now
        self._failed_proofs = 0

    def see(self, look: Look, now: float) -> Step:
        """Take what was seen; return what to do. After `Prove` the caller reports `proved` or `disproved`."""
        if look.connected and look.url and (look.url != self._url or self.state is State.STARTING):
            self._url = look.url
            self._begin_proving(now, self._patience.first_proof_s)
        elif self.state is State.SHAKY and look.connected:
            self._begin_proving(now, 0.0)
        elif self.state is State.OPEN and not look.connected:
            self._enter(State.SHAKY, now)
        return self._next(look, now)

    def proved(self, now: float) -> None:
        """The signed socket came back."""
        self._enter(State.OPEN, now)

    def disproved(self, now: float) -> None:
        """It did not."""
        waits_s = self._patience.next_proof_s
        self._proof_due_s = now + waits_s[min(self._failed_proofs, len(waits_s) - 1)]
        self._failed_proofs += 1

    def _next(self, look: Look, now: float) -> Step:
        if (reason := self._too_long(now)) is not None:
            return Restart(reason)
        live = look.connected and look.url == self._url
        if self.state is State.PROVING and live and self._url and now >= self._proof_due_s:
            return Prove(self._url)
        return Wait()

    def _too_long(self, now: float) -> str | None:
        limits: dict[State, tuple[float, str]] = {
            State.STARTING: (self._patience.connect_s, "no connection to Cloudflare"),
            State.PROVING: (self._patience.prove_s, "no signed socket came back through it"),
            State.SHAKY: (self._patience.shaky_s, "its connection to Cloudflare is lost"),
        }
        limit_s, reason = limits.get(self.state, (float("inf"), ""))
        return f"{reason} for {limit_s:.0f} s" if now - self._since_s > limit_s else None

    def _begin_proving(self, now: float, first_proof_s: float) -> None:
        self._enter(State.PROVING, now)
        self._proof_due_s = now + first_proof_s
        self._failed_proofs = 0

    def _enter(self, state: State, now: float) -> None:
        self.state, self._since_s = state, now


def back_off_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
