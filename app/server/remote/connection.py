"""The WebSocket to a Moshi server, opened as each kind of server needs it, and in words why one cannot be."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from app.server.remote.messages import Handshake, parse, printable
from app.server_urls import address_of

OPEN_WITHIN_S, CLOSE_WITHIN_S = 15.0, 2.0
MOST_BYTES = 2**18
"""Of a message; 40 ms of Opus are a few hundred."""
MOST_ANSWER = 200
NORMAL_CLOSURE, TRY_AGAIN_LATER = 1000, 1013
FULL = "it takes no conversation now: all its slots may be taken"
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
ANSWERS: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "there is no chat: another server, or chat is turned off",
    HTTPStatus.TOO_MANY_REQUESTS: "it refuses: too many attempts, try again in a minute",
    HTTPStatus.SERVICE_UNAVAILABLE: FULL,
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a server that refuses, and about a certificate that is not trusted."""

    access: str
    trust: str


@dataclass(frozen=True, slots=True)
class Target:
    url: str = field(repr=False)
    shown: str
    """The URL without user, password and query."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        return address_of(self.url)


class ConnectionFailed(Exception):
    """The conversation did not begin, or broke; the message is one line."""


async def open_socket(target: Target, advice: Advice, within_s: float = OPEN_WITHIN_S) -> ClientConnection:
    """Connect. Raises ConnectionFailed.

    No pings: Rust's server reads their payload as a message. The host is pinned: no token is redirected.
    """
    host, port = target.address
    try:
        return await connect(
            target.url,
            host=host,
            port=port,
            ssl=target.tls,
            additional_headers=target.headers,
            compression=None,
            proxy=None,
            ping_interval=None,
            open_timeout=within_s,
            close_timeout=CLOSE_WITHIN_S,
            max_size=MOST_BYTES,
        )
    except (WebSocketException, OSError, ValueError) as error:
        raise ConnectionFailed(printable(_reason(error, advice))) from error


def _reason(error: Exception, advice: Advice) -> str:
    match error:
        case InvalidStatus(response=response):
            said = (response.body or b"")[:MOST_ANSWER].decode("utf-8", "replace").strip()
            refused = f"it refuses: {advice.access}" if response.status_code in REFUSED else ""
            known = refused or ANSWERS.get(response.status_code, said or "it is no Moshi server")
            return f"{known} (HTTP {response.status_code})"
        case ssl.SSLCertVerificationError():
            return f"{_one_line(error)}. {advice.trust}"
        case ValueError():
            return f"no connection; redirects to other addresses are not followed ({_one_line(error)})"
        case ssl.SSLError() | InvalidHandshake():
            return f"what answers there is no WebSocket server of this kind, ws:// or wss:// ({_one_line(error)})"
        case _:
            return f"not reached ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no answer in time"


async def wait_handshake(socket: ClientConnection, within_s: float) -> None:
    """Skip what comes before the handshake. Raises ConnectionFailed if the server is not ready in time, or closes."""
    try:
        async with asyncio.timeout(within_s):
            while not isinstance(parse(await socket.recv()), Handshake):
                pass
    except TimeoutError as error:
        raise ConnectionFailed(f"not ready within {within_s:g} s: it may be in another conversation") from error
    except ConnectionClosed as closed:
        raise ConnectionFailed(closing_reason(closed, ready=False)) from closed


def closing_reason(closed: ConnectionClosed, ready: bool) -> str:
    """Return why a server has closed a connection, "" if it has ended a conversation in order."""
    code = closed.rcvd.code if closed.rcvd else None
    said = printable(closed.rcvd.reason) if closed.rcvd else ""
    if code == TRY_AGAIN_LATER:
        return said or FULL
    if code != NORMAL_CLOSURE:
        return f"the connection broke ({code}{' ' + said if said else ''})" if code else "the connection broke"
    return "" if ready else said or "the server closed the connection before it was ready"
