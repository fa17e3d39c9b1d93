"""The states of one run of cloudflared; no I/O, `now` in seconds.

A quick tunnel's name exists before its DNS record does, and a query that comes too early makes resolvers cache that
there is none. So the first probe waits, and each later one waits longer. When the edge connection is lost, cloudflared
restores it by itself and calls may go on, so the service stays open; the address is probed again afterwards. A state
that lasts too long ends in a restart, which gives a quick tunnel a new name.
"""

from dataclasses import dataclass
from enum import Enum, auto

BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)


class TunnelState(Enum):
    """STARTING: no URL or no connection to Cloudflare's edge; DISCONNECTED: the edge connection was lost while OPEN."""

    STARTING = auto()
    PROBING = auto()
    OPEN = auto()
    DISCONNECTED = auto()


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """What cloudflared's metrics port says."""

    url: str | None
    connected: bool


@dataclass(frozen=True, slots=True)
class TunnelTimeouts:
    """How long each state may last, and the wait before each probe, in seconds."""

    connect_s: float = 60.0
    probe_s: float = 300.0
    disconnected_s: float = 90.0
    first_probe_s: float = 5.0
    next_probe_s: tuple[float, ...] = (3.0, 5.0, 10.0, 20.0, 30.0)


class TunnelStateMachine:
    """One run of cloudflared, from its start to a restart."""

    def __init__(self, now: float, timeouts: TunnelTimeouts | None = None) -> None:
        self.state = TunnelState.STARTING
        self._timeouts = timeouts or TunnelTimeouts()
        self._url: str | None = None
        self._since_s = self._probe_due_s = now
        self._failed_probes = 0

    def on_status(self, status: TunnelStatus, now: float) -> str | None:
        """Return the URL through which to send a signed socket now, before `on_probe`; None to wait."""
        is_live = status.connected and status.url is not None
        if is_live and (status.url != self._url or self.state is TunnelState.STARTING):
            self._url = status.url
            self._start_probing(now, self._timeouts.first_probe_s)
        elif status.connected and self.state is TunnelState.DISCONNECTED:
            self._start_probing(now, 0.0)
        elif not status.connected and self.state is TunnelState.OPEN:
            self._enter(TunnelState.DISCONNECTED, now)
        is_due = self.state is TunnelState.PROBING and now >= self._probe_due_s
        return self._url if is_due and is_live else None

    def on_probe(self, succeeded: bool, now: float) -> None:
        if succeeded:
            self._enter(TunnelState.OPEN, now)
            return
        waits_s = self._timeouts.next_probe_s
        self._probe_due_s = now + waits_s[min(self._failed_probes, len(waits_s) - 1)]
        self._failed_probes += 1

    def overdue(self, now: float) -> str | None:
        """Return why this cloudflared must be ended and another started, None if it may go on."""
        limits = {
            TunnelState.STARTING: (self._timeouts.connect_s, "no connection to Cloudflare"),
            TunnelState.PROBING: (self._timeouts.probe_s, "no signed socket came back through it"),
            TunnelState.DISCONNECTED: (self._timeouts.disconnected_s, "its connection to Cloudflare is lost"),
        }
        limit_s, reason = limits.get(self.state, (float("inf"), ""))
        return f"{reason} for {limit_s:.0f} s" if now - self._since_s > limit_s else None

    def _start_probing(self, now: float, wait_s: float) -> None:
        self._enter(TunnelState.PROBING, now)
        self._probe_due_s = now + wait_s
        self._failed_probes = 0

    def _enter(self, state: TunnelState, now: float) -> None:
        self.state, self._since_s = state, now


def backoff_s(failures: int) -> float:
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
