"""The tasks that run beside the web server: tunnel, number override, systemd notifications."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial

from app.config import ServiceManager, Settings
from app.http.selftest import probe
from app.server.background import Run, endless
from app.server.cloudflared import Cloudflared, free_port, tunnel_command, tunnel_environment
from app.server.number_override import NumberManager, set_number_once_reachable
from app.server.service import Service
from app.server.systemd import notify_systemd
from app.server.tunnel import TunnelManager


def service_tasks(
    service: Service, settings: Settings, manager: ServiceManager, cloudflared: str | None, number: NumberManager | None
) -> Iterator[tuple[str, Run]]:
    """Yield the tasks that these settings ask for, with names.

    `cloudflared` is the program's path, None without a tunnel; `number` is None if it is not to be changed.
    """
    token = next(iter(settings.twilio.auth_tokens), None)
    probe_service = partial(probe, auth_token=token, service_name=service.public.service_name)
    if cloudflared:
        start = partial(_start, settings, cloudflared)
        yield "the tunnel", partial(endless, TunnelManager(service.public, start, probe_service, number).run)
    elif number:
        yield "the number", partial(set_number_once_reachable, settings.server.base_url, probe_service, number)
    if number:
        yield "restoring the number", partial(_restore_number, number, service.stopping)
    if manager.notify_socket:
        watchdog_s = manager.watchdog_s(os.getpid())
        notify = partial(notify_systemd, service, manager.notify_socket, watchdog_s)
        yield "the notifications to systemd", partial(endless, notify)


async def _start(settings: Settings, program: str) -> Cloudflared:
    metrics_port = free_port()
    return await Cloudflared.start(
        tunnel_command(settings, program, metrics_port),
        tunnel_environment(settings, os.environ),
        metrics_port,
        settings.server.public_url if settings.tunnel.is_named else None,
        settings.tunnel.token,
    )


async def _restore_number(number: NumberManager, stopping: asyncio.Event) -> None:
    """Restore the number once no more calls are accepted; the last calls go on meanwhile."""
    try:
        await stopping.wait()
    finally:
        await number.restore()
