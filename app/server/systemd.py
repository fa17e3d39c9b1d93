"""systemd's notify protocol: the service says when it is ready, what it does, that it lives and that it stops.

Each message is one datagram of NAME=value lines to the socket that systemd names (sd_notify(3)). The watchdog is
answered from the event loop, and only while every worker answers its pings: a loop that hangs or a worker that does
not come back lets systemd start everything anew.
"""

import asyncio
import logging
import socket
from dataclasses import dataclass

from app.server.service import Service
from workers.lines import mask_userinfo

log = logging.getLogger(__name__)

BEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How the service is: `ready` for its first call, `answering` workers, `stopping`, and a line for people."""

    ready: bool
    answering: bool
    stopping: bool
    status: str


class StatusMessages:
    """Decides what systemd is told; no I/O."""

    def __init__(self, watchdog: bool) -> None:
        self._watchdog = watchdog
        self._told = ServiceStatus(ready=False, answering=False, stopping=False, status="")

    def beat(self, vitals: ServiceStatus) -> str:
        """Return the lines to send now: news once, the sign of life each time; empty when there is nothing to say."""
        lines = []
        if vitals.ready and not self._told.ready:
            lines.append("READY=1")
        if vitals.stopping and not self._told.stopping:
            lines.append("STOPPING=1")
        if vitals.status != self._told.status:
            lines.append(f"STATUS={vitals.status}")
        if self._watchdog and vitals.answering:
            lines.append("WATCHDOG=1")
        self._told = vitals
        return "\n".join(lines)


class NotifySocket:
    """The way to systemd; `address` is a path, or `@name` in the abstract namespace. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._failed = False

    def send(self, lines: str) -> None:
        """Send one datagram. What cannot be delivered is lost, and said once."""
        try:
            self._socket.sendto(lines.encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("systemd is not told: NOTIFY_SOCKET: %s", error.strerror or error)
            self._failed = True

    def __enter__(self) -> "NotifySocket":
        """Return this."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the socket."""
        self._socket.close()


def status_of(service: Service) -> ServiceStatus:
    """Return how a service is."""
    return ServiceStatus(
        ready=service.self_tested.is_set(),
        answering=service.supervisor.answering,
        stopping=service.stopping.is_set(),
        status=_status(service),
    )


def _status(service: Service) -> str:
    if service.stopping.is_set():
        return "stopping: no more calls are taken"
    if not service.self_tested.is_set():
        return "starting the workers"
    if not service.supervisor.ready:
        return f"the pipeline is being started again ({service.manager.pipeline})"
    if not service.public.is_open:
        return "the tunnel is not open"
    where = mask_userinfo(service.public.base_url)
    return f"{service.manager.free_slots} of {service.supervisor.slots} slots free, at {where}"


async def notify_systemd(service: Service, address: str, watchdog_s: float) -> None:
    """Tell systemd how the service is, until cancelled; within half of `watchdog_s` (0: no watchdog) that it lives."""
    heart = StatusMessages(watchdog_s > 0)
    beat_s = min(BEAT_S, watchdog_s / 2) if watchdog_s else BEAT_S
    with NotifySocket(address) as systemd:
        while True:
            if lines := heart.beat(status_of(service)):
                systemd.send(lines)
            await _sleep(beat_s, service.stopping)


async def _sleep(seconds: float, stopping: asyncio.Event) -> None:
    """Sleep, but wake as soon as the service begins to stop."""
    if stopping.is_set():
        await asyncio.sleep(seconds)
        return
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
