"""`moshi-bridge serve`: runs the service with its settings and returns an exit status."""

import logging
import socket
import sys
from urllib.parse import urlsplit

import uvloop
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from app.config import ServiceManager, Settings, SettingsError, WhenBusy, is_loopback, read_service_manager
from app.server.background import ServiceFailed
from app.server.cloudflared import find_cloudflared
from app.server.listener import listen
from app.server.number_override import NumberManager
from app.server.pipeline_self_test import SelfTestFailed
from app.server.service import Service
from app.server.service_tasks import service_tasks
from app.twilio.number import NumberOverride, NumberRefused
from app.twilio.rest import open_rest
from app.twilio.rest_http import RestError
from app.twilio.saved_webhook import SavedWebhook
from workers.logging import flush_logging
from workers.messages import Progress
from workers.supervisor import WorkerRefused

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_SETTINGS = 1, 2


class ProgressDisplay:
    """Shows downloads and other long work: a bar on a terminal, otherwise a log line as it begins."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console, transient=True)
        self._tasks: dict[str, int] = {}
        self._is_terminal = console.is_terminal

    def show(self, progress: Progress) -> None:
        if self._is_terminal:
            self._draw(progress)
        elif progress.what not in self._tasks:
            self._tasks[progress.what] = 0
            log.info("%s …", progress.what)

    def _draw(self, progress: Progress) -> None:
        if progress.what not in self._tasks:
            self._bars.start()
            self._tasks[progress.what] = self._bars.add_task(progress.what, total=progress.total or None)
        task = self._bars.tasks[self._tasks[progress.what]].id
        self._bars.update(task, completed=progress.done, total=progress.total or None)
        if all(bar.finished for bar in self._bars.tasks):
            self._bars.stop()


def serve(settings: Settings) -> int:
    """Run the service until a signal; return the exit status."""
    display = ProgressDisplay(Console(stderr=True))
    try:
        settings.require_host()
        settings.require_safe()
        manager = read_service_manager()
        cloudflared = find_cloudflared() if settings.tunnel.start else None
        sock = listen(settings)
        with sock:
            _log_settings(settings)
            uvloop.run(_run(settings, manager, cloudflared, display, sock))
    except (SettingsError, WorkerRefused, SelfTestFailed, ServiceFailed) as error:
        flush_logging()
        print(f"moshi-bridge: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, ServiceFailed) else EXIT_SETTINGS
    except KeyboardInterrupt:
        pass
    return 0


async def _run(
    settings: Settings, manager: ServiceManager, cloudflared: str | None, display: ProgressDisplay, sock: socket.socket
) -> None:
    queues = settings.calls.when_busy is WhenBusy.QUEUE and settings.twilio.account_sid and settings.twilio.auth_token
    service = Service(settings, display.show, open_rest(settings) if queues else None)
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
    for name, doubt in settings.doubts.items():
        log.warning("%s: %s; copy it from the Twilio console", name, doubt)
    public = urlsplit(settings.server.base_url)
    if public.scheme == "http" and not is_loopback(public.hostname or "") and not is_quick_tunnel:
        log.warning("Twilio opens sockets over TLS only: its calls fail at PUBLIC_URL=%s", settings.server.base_url)
    if not settings.twilio.checks_signatures:
        log.warning("signatures are not checked: calls from this machine only")
