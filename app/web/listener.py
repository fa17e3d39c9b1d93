"""The web server: uvicorn behind our own door, which ends in an order of ours."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.config import Settings, SettingsError
from app.service.drain import Drain
from app.twilio.protocol import MAX_MESSAGE_BYTES
from app.web.door import Door, Socket, raise_descriptor_limit
from app.web.headers import SafeHeaders

CLOSE_SOCKETS_WITHIN_S = 3
BACKLOG = 1024


def listen(settings: Settings) -> socket.socket:
    """Return a socket bound to HOST and PORT. Raises SettingsError when they cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(BACKLOG)  # now, so that a second service on the same port learns it at once
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        where = f"PORT={settings.port}{settings.origin('port')}, HOST={settings.host}{settings.origin('host')}"
        raise SettingsError(f"{where}: {reason}; choose another PORT") from error
    return sock


class Server(uvicorn.Server):
    """Lets connections in by our own door, and ends the calls before the sockets are taken away.

    A first SIGTERM lets the calls end by themselves.
    """

    def __init__(self, app: FastAPI, on_exit: Callable[[], None], drain: Drain) -> None:
        super().__init__(
            uvicorn.Config(
                SafeHeaders(app),
                lifespan="off",
                ws=Socket,
                log_config=None,
                ws_max_size=MAX_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=CLOSE_SOCKETS_WITHIN_S,
                server_header=False,
            )
        )
        self._on_exit = on_exit
        self._accepting: list[asyncio.Task[None]] = []
        self._drain = drain

    def stop(self) -> None:
        """Stop now."""
        self.should_exit = True

    def stop_if_failed(self, task: "asyncio.Task[None]") -> None:
        """Stop now if this task, which is done, has failed."""
        if not task.cancelled() and task.exception():
            self.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first SIGTERM, if there is time for it; stop now at SIGINT and whatever comes second."""
        if sig == signal.SIGTERM and self._drain.limit_s and not self._drain.begun:
            self._drain.begin()
        else:
            super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to stop; uvicorn would raise them anew before the workers are gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # none for uvicorn itself
        raise_descriptor_limit()
        self._accepting = [asyncio.create_task(Door().attend(sock, self)) for sock in sockets or []]
        for task in self._accepting:
            task.add_done_callback(self.stop_if_failed)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        for task in self._accepting:
            task.cancel()
        await asyncio.wait(self._accepting)
        await super().shutdown(sockets)
        for task in self._accepting:
            if not task.cancelled():
                task.result()
