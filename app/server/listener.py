"""The web server: uvicorn on a socket of ours.

Connections are not limited here: uvicorn's `limit_concurrency` counts WebSockets too and answers 503 to the newest,
which in a flood is Twilio. Nor are connections closed that send no request or half of one; a proxy does both
(docs/security.md).
"""

import contextlib
import logging
import resource
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from app.config import Settings, SettingsError
from app.http.headers import SafeHeaders
from app.twilio.protocol import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

CLOSE_SOCKETS_WITHIN_S = 3
KEEP_ALIVE_S = 130
"""Idle connections live longer than those of proxies (cloudflared 90 s, Caddy 120 s): a proxy that sends a request on a
connection that is being closed loses it."""
PING_EVERY_S = 20.0
BACKLOG = 1024
DESCRIPTORS = 4_096
"""Files and sockets; macOS gives a process 256."""
_DENIED = "ASGI callable returned without completing handshake."


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket on HOST and PORT. Raises SettingsError."""
    host, port = settings.server.host, settings.server.port
    is_v6 = ":" in host
    family, both = (socket.AF_INET6 if is_v6 else socket.AF_INET), is_v6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        reason, _, _ = str(error.strerror or error).partition(" (while attempting")  # to bind on address …
        where = f"PORT={port}{settings.origin('PORT')}, HOST={host}{settings.origin('HOST')}"
        raise SettingsError(f"{where}: {reason}; choose another PORT") from error


class WebServer:
    def __init__(self, app: ASGIApp) -> None:
        self.config = uvicorn.Config(
            SafeHeaders(app),
            lifespan="on",
            http="h11",
            ws="websockets-sansio",
            log_config=None,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSE_SOCKETS_WITHIN_S,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_EVERY_S,
            ws_ping_timeout=None,  # a peer that answers no pings may still send audio: see app/http/media.py
            server_header=False,
        )
        self._server = _UvicornServer(self.config)
        logging.getLogger("uvicorn.error").addFilter(_is_no_denial)

    async def serve(self, sock: socket.socket) -> None:
        raise_descriptor_limit()
        await self._server.serve(sockets=[sock])

    def stop(self) -> None:
        self._server.should_exit = True


class _UvicornServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no handlers: the service has its own."""
        yield


def _is_no_denial(record: logging.LogRecord) -> bool:
    """Drop uvicorn's error for an upgrade that is answered by an HTTP response, which ASGI allows."""
    return record.msg != _DENIED


def raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("this process may have %d files and sockets, and no more: %s", soft, error)
