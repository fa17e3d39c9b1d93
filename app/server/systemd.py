"""systemd's notify protocol, sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names.

The watchdog is fed from the event loop, and only while all workers answer: if either hangs, systemd restarts all.
"""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass

from app.server.service import Service
from workers.lines import mask_userinfo

log = logging.getLogger(__name__)

NOTIFY_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What systemd is told of; `answering` is about the workers."""

    ready: bool
    answering: bool
    stopping: bool
    text: str


NOTHING_SENT = ServiceStatus(ready=False, answering=False, stopping=False, text="")


def notify_lines(before: ServiceStatus, now: ServiceStatus, watchdog: bool) -> str:
    """Return what to send: what has changed, and the sign of life each time; "" for nothing."""
    lines = {
        "READY=1": now.ready and not before.ready,
        "STOPPING=1": now.stopping and not before.stopping,
        f"STATUS={now.text}": now.text != before.text,
        "WATCHDOG=1": watchdog and now.answering,
    }
    return "\n".join(line for line, is_due in lines.items() if is_due)


class NotifySocket:
    """The socket to systemd; `address` is a path, or `@name` in the abstract namespace."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._failed = False

    def send(self, lines: str) -> None:
        """Send one datagram, none for ""; the first failure is logged, none is raised."""
        try:
            if lines:
                self._socket.sendto(lines.encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("systemd is not notified: NOTIFY_SOCKET: %s", error.strerror or error)
            self._failed = True

    def close(self) -> None:
        self._socket.close()


def status_of(service: Service) -> ServiceStatus:
    return ServiceStatus(
        ready=service.self_tested.is_set(),
        answering=service.supervisor.answering,
        stopping=service.stopping.is_set(),
        text=_text(service),
    )


def _text(service: Service) -> str:
    if service.stopping.is_set():
        return "stopping: no more calls are accepted"
    if not service.self_tested.is_set():
        return "starting the workers"
    if not service.supervisor.ready:
        return f"the pipeline is being started again ({service.manager.pipeline})"
    if not service.public.is_open:
        return "the tunnel is not open"
    where = mask_userinfo(service.public.base_url)
    return f"{service.manager.free_slots} of {service.supervisor.slots} slots free, at {where}"


async def notify_systemd(service: Service, address: str, watchdog_s: float) -> None:
    """Notify systemd until cancelled, at least twice per `watchdog_s` (0: no watchdog)."""
    sent, every_s = NOTHING_SENT, min(NOTIFY_EVERY_S, watchdog_s / 2) if watchdog_s else NOTIFY_EVERY_S
    with contextlib.closing(NotifySocket(address)) as systemd:
        try:
            while True:
                status = status_of(service)
                systemd.send(notify_lines(sent, status, watchdog_s > 0))
                sent = status
                await asyncio.sleep(every_s)
        finally:
            systemd.send(notify_lines(sent, status_of(service), watchdog=False))
