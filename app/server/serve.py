"""`moshi-bridge serve`: runs the service, and the tasks beside it, with its settings; returns an exit status."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import uvloop
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from app.config import ServiceManager, Settings, SettingsError, is_loopback, read_service_manager
from app.http.selftest import probe
from app.server.background import Run, TaskFailed, endless
from app.server.cloudflared import Cloudflared, find_cloudflared, free_port, tunnel_command, tunnel_environment
from app.server.listener import listen
from app.server.number_override import NumberManager, set_number_once_reachable
from app.server.pipeline_self_test import SelfTestFailed
from app.server.service import Service
from app.server.systemd import notify_systemd
from app.server.tunnel import TunnelManager
from app.twilio.number import NumberOverride, NumberRefused, SavedWebhook
from app.twilio.rest import open_rest
from app.twilio.rest_http import RestError
from workers.control_messages import Progress
from workers.logging import flush_logging
from workers.supervisor import WorkerRefused

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_SETTINGS = 1, 2


class ProgressDisplay:
    """Shows downloads and other long work: a bar on a terminal, otherwise a log line as it begins."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def show(self, progress: Progress) -> None:
        if progress.what not in self._tasks:
            self._tasks[progress.what] = self._bars.add_task(progress.what)
            self._bars.start()
            if self._bars.disable:
                log.info("%s …", progress.what)
        self._bars.update(self._tasks[progress.what], completed=progress.done, total=progress.total or None)
        if self._bars.finished:
            self._bars.stop()


def serve(settings: Settings) -> int:
    try:
        settings.require_host()
        settings.require_safe()
        manager = read_service_manager()
        cloudflared = find_cloudflared() if settings.tunnel.start else None
        with listen(settings) as sock:
            _log_settings(settings)
            uvloop.run(_run(settings, manager, cloudflared, sock))
    except (SettingsError, WorkerRefused, SelfTestFailed, TaskFailed) as error:
        flush_logging()
        for line in str(error).splitlines():
            print(f"moshi-bridge: {line}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, TaskFailed) else EXIT_SETTINGS
    except KeyboardInterrupt:
        pass
    return 0


async def _run(settings: Settings, manager: ServiceManager, cloudflared: str | None, sock: socket.socket) -> None:
    has_account = settings.twilio.account_sid and settings.twilio.auth_token
    display = ProgressDisplay(Console(stderr=True))
    rest = open_rest(settings) if has_account else None
    if rest:
        await rest.prepare()
    service = Service(settings, display.show, rest)
    await service.run(sock, service_tasks(service, settings, manager, cloudflared, _number(settings, service)))


def _number(settings: Settings, service: Service) -> NumberManager | None:
    if not settings.twilio.set_number:
        return None
    saved = SavedWebhook(settings.model.cache / f"number-of-port-{settings.server.port}.json")
    number = NumberOverride(open_rest(settings), settings.twilio.phone_number, saved)
    return NumberManager(number, (NumberRefused, RestError), service.self_tested.wait)


def _log_settings(settings: Settings) -> None:
    is_quick_tunnel = settings.tunnel.start and not settings.tunnel.is_named
    webhook = "the tunnel's, once it is open" if is_quick_tunnel else f"{settings.server.base_url}/twilio/voice"
    log.info("listening on %s:%d, voice webhook %s", settings.server.host, settings.server.port, webhook)
    log.info("the operator's page is at %s/", settings.server.local_url)
    if is_quick_tunnel and settings.server.public_url:
        log.warning("PUBLIC_URL is not used: a quick tunnel has a URL of its own (TUNNEL_NAME names one of yours)")
    if settings.transcription.spec and not settings.transcribe:
        no_codes = "TRANSCRIBE is not used: with ENGINE=%s CODEC=%s there are no codes of what callers say"
        log.warning(no_codes, settings.model.engine, settings.model.codec)
    for name, doubt in settings.doubts.items():
        log.warning("%s: %s; copy it from the Twilio console", name, doubt)
    public = urlsplit(settings.server.base_url)
    if public.scheme == "http" and not is_loopback(public.hostname or "") and not is_quick_tunnel:
        log.warning("Twilio opens sockets over TLS only: its calls fail at PUBLIC_URL=%s", settings.server.base_url)
    if not settings.twilio.checks_signatures:
        log.warning("signatures are not checked: calls from this machine only")


def service_tasks(
    service: Service, settings: Settings, manager: ServiceManager, cloudflared: str | None, number: NumberManager | None
) -> Iterator[tuple[str, Run]]:
    """Yield the tasks that these settings ask for, with names.

    `cloudflared` is the program's path, None without a tunnel; `number` is None if it is not to be changed.
    """
    token = next(iter(settings.twilio.auth_tokens), None)
    probe_service = partial(probe, auth_token=token, service_name=service.public.service_name)
    if cloudflared:
        start = partial(_start_tunnel, settings, cloudflared)
        yield "the tunnel", partial(endless, TunnelManager(service.public, start, probe_service, number).run)
    elif number:
        yield "the number", partial(set_number_once_reachable, settings.server.base_url, probe_service, number)
    if number:
        yield "restoring the number", partial(_restore_number, number, service.stopping)
    if manager.notify_socket:
        notify = partial(notify_systemd, service, manager.notify_socket, manager.watchdog_s(os.getpid()))
        yield "the notifications to systemd", partial(endless, notify)


async def _start_tunnel(settings: Settings, program: str) -> Cloudflared:
    metrics_port = free_port()
    command = tunnel_command(settings, program, metrics_port)
    environment = tunnel_environment(settings, os.environ)
    url = settings.server.public_url if settings.tunnel.is_named else None
    return await Cloudflared.start(command, environment, metrics_port, url, settings.tunnel.token)


async def _restore_number(number: NumberManager, stopping: asyncio.Event) -> None:
    """Restore the number once no more calls are accepted; the last calls go on meanwhile."""
    try:
        await stopping.wait()
    finally:
        await number.restore()
