"""systemd's notify protocol, sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names.

The watchdog is fed from the event loop, and only while all workers answer: if either hangs, systemd restarts all.
"""

import asyncio
import logging
import socket
from collections.abc import Collection

from app.server.service import Service
from workers.logging import mask_userinfo

log = logging.getLogger(__name__)

NOTIFY_EVERY_S = 1.0


def status_lines(service: Service) -> list[str]:
    """Return what is true of the service now, in systemd's words."""
    lines = [f"STATUS={_text(service)}"]
    if service.self_tested.is_set():
        lines.insert(0, "READY=1")
    if service.stopping.is_set():
        lines.insert(0, "STOPPING=1")
    return lines


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


class NotifySocket:
    """The socket to systemd; `address` is a path, or `@name` in the abstract namespace."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._sent: Collection[str] = ()
        self._failed = False

    def send(self, lines: Collection[str], is_alive: bool) -> None:
        """Send the lines that have changed, with a sign of life; the first failure is logged, none raised."""
        news = [line for line in lines if line not in self._sent] + ["WATCHDOG=1"] * is_alive
        try:
            if news:
                self._socket.sendto("\n".join(news).encode(), self._address)
            self._sent = lines
        except OSError as error:
            if not self._failed:
                log.warning("systemd is not notified: NOTIFY_SOCKET: %s", error.strerror or error)
            self._failed = True

    def close(self) -> None:
        self._socket.close()


async def notify_systemd(service: Service, address: str, watchdog_s: float) -> None:
    """Notify systemd until cancelled, at least twice per `watchdog_s` (0: no watchdog)."""
    every_s = min(NOTIFY_EVERY_S, watchdog_s / 2) if watchdog_s else NOTIFY_EVERY_S
    systemd = NotifySocket(address)
    try:
        while True:
            systemd.send(status_lines(service), is_alive=watchdog_s > 0 and service.supervisor.answering)
            await asyncio.sleep(every_s)
    finally:
        systemd.send(status_lines(service), is_alive=False)
        systemd.close()
