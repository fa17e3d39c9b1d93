"""What runs beside the web server: the tunnel, the number that leads here, and the line to systemd."""

import asyncio
import os
from functools import partial

from app.config import ServiceManager, Settings
from app.http.selftest import probe
from app.server.background import Run, endless
from app.server.cloudflared import Cloudflared, free_port
from app.server.number_override import NumberManager, set_number_once_reachable
from app.server.service import Service
from app.server.systemd import notify_systemd
from app.server.tunnel import TunnelManager
from app.server.tunnel_command import tunnel_command, tunnel_environment


def service_tasks(
    service: Service, settings: Settings, manager: ServiceManager, cloudflared: str | None, number: NumberManager | None
) -> list[Run]:
    """Return what these settings ask to run beside a service.

    `cloudflared` is the program's path, None without a tunnel; `number` is None when it is to be left as it is.
    """
    beside: list[Run] = []
    proof = partial(probe, auth_token=next(iter(settings.auth_tokens), None), service_name=service.public.service_name)
    if cloudflared:
        start = partial(_start, settings, cloudflared)
        beside.append(partial(endless, TunnelManager(service.public, start, proof, number).run))
    elif number:
        beside.append(partial(set_number_once_reachable, settings.base_url, proof, number))
    if number:
        beside.append(partial(_put_back, number, service.stopping))
    if manager.notify_socket:
        watchdog_s = manager.watchdog_s(os.getpid())
        beside.append(partial(endless, partial(notify_systemd, service, manager.notify_socket, watchdog_s)))
    return beside


async def _start(settings: Settings, program: str) -> Cloudflared:
    metrics_port = free_port()
    url = settings.public_url if settings.is_named_tunnel else None
    return await Cloudflared.start(
        tunnel_command(settings, program, metrics_port),
        tunnel_environment(settings, os.environ),
        metrics_port,
        url,
        settings.tunnel_token,
    )


async def _put_back(number: NumberManager, stopping: asyncio.Event) -> None:
    """Put the number back as soon as no more calls are taken; the last calls go on meanwhile."""
    try:
        await stopping.wait()
        await number.restore()
    finally:
        await number.restore()  # to its end, though the service be gone by then
