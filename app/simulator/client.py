"""What Twilio requests of the service, and as it does: webhooks, signed form requests, and the socket of a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.simulator.report import Ending, Outcome, StreamReport
from app.simulator.stream import CallerStream, Message
from app.twilio.signature import SIGNATURE_HEADER, SOCKET_SCHEMES, sign
from app.twilio.wire import ProtocolViolation

TIMEOUT_S = 15
"""Twilio waits no longer for TwiML."""
KEEPALIVE_S = 2
"""Less than servers keep an idle connection open: one that is just being closed would fail the next request."""


class WebhookError(Exception):
    """The server gave no usable answer; `status` is None when it gave none at all."""

    def __init__(self, status: int | None, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class WebhookClient:
    """Requests the service: without a signature where `auth_token` is None, at `dial_url` where that is given."""

    def __init__(self, session: ClientSession, auth_token: str | None, dial_url: str | None) -> None:
        self._session, self._auth_token, self._dial_url = session, auth_token, dial_url

    async def post(self, url: str, form: Mapping[str, str]) -> str:
        """Return the body of the answer to a form; raises `WebhookError`."""
        headers = {"User-Agent": "TwilioProxy/1.1", **self._signature(url, form)}
        try:
            async with self._session.post(dialled(url, self._dial_url), data=form, headers=headers) as response:
                body = await response.text()
        except (ClientError, TimeoutError, UnicodeDecodeError) as error:
            raise WebhookError(None, f"{url}: {error or type(error).__name__}") from error
        if not response.ok:
            raise WebhookError(response.status, f"{url}: HTTP {response.status}")
        return body

    def open_socket(self, url: str) -> connect:
        """Return the upgrade as Twilio makes it: no Origin, no subprotocol, no extensions, no pings."""
        return connect(
            dialled(url, self._dial_url),
            additional_headers=self._signature(url, {}),
            user_agent_header="Twilio.TmeWs/1.0",
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=5,
            max_size=2**20,
        )

    def _signature(self, url: str, form: Mapping[str, str]) -> dict[str, str]:
        return {} if self._auth_token is None else {SIGNATURE_HEADER: sign(self._auth_token, url, form.items())}


@asynccontextmanager
async def open_webhooks(auth_token: str | None, dial_url: str | None) -> AsyncIterator[WebhookClient]:
    connector = TCPConnector(keepalive_timeout=KEEPALIVE_S)
    async with ClientSession(timeout=ClientTimeout(total=TIMEOUT_S), connector=connector) as session:
        yield WebhookClient(session, auth_token, dial_url)


def dialled(url: str, dial_url: str | None) -> str:
    """Return `url` with the scheme and address of `dial_url`, where the server of a public URL is reached."""
    if dial_url is None:
        return url
    wanted, dial = urlsplit(url), urlsplit(dial_url)
    scheme = SOCKET_SCHEMES[dial.scheme] if wanted.scheme in SOCKET_SCHEMES.values() else dial.scheme
    return wanted._replace(scheme=scheme, netloc=dial.netloc).geturl()


def handshake_failed(url: str, error: Exception) -> Ending:
    status = error.response.status_code if isinstance(error, InvalidStatus) else None
    return Ending(Outcome.HANDSHAKE_FAILED, f"{url}: {error}", status)


def stream_report(url: str, stream: CallerStream, closed_s: float, socket: ClientConnection) -> StreamReport:
    """Return the report of a stream whose socket is closed."""
    close = (socket.close_code or 1006, socket.close_reason or "")
    return StreamReport(url, stream.stream_sid, stream.opened_s, closed_s, stream.counts, *close)


async def converse(
    socket: ClientConnection, stream: CallerStream, now: Callable[[], float], on_turn: Callable[[], None]
) -> Ending | None:
    """Run the stream until one side ends it; call `on_turn` after every message and every timer.

    None means that the server closed the socket: the call goes on with its TwiML. `now` is in seconds since the call's
    first stream started.
    """
    await _send(stream.open(), socket)
    try:
        while not stream.over:
            await _send(await _turn(socket, stream, now), socket)
            on_turn()
    except ConnectionClosed:
        return None
    except ProtocolViolation as violation:
        return Ending(Outcome.PROTOCOL_VIOLATION, str(violation))
    if stream.cut:
        socket.transport.abort()
        return Ending(Outcome.LINE_CUT, "the connection broke, as the scenario wants it")
    return Ending(Outcome.CALLER_HUNG_UP, "the caller hung up")


async def _turn(socket: ClientConnection, stream: CallerStream, now: Callable[[], float]) -> list[Message]:
    """Wait for a message or the stream's timer; return the messages that follow."""
    moment_s = now()
    wait_s = max(stream.due_s() - moment_s, 0.0)
    if (unread_s := stream.reads_s(moment_s) - moment_s) > 0:
        await asyncio.sleep(min(unread_s, wait_s))
        return stream.advance(now())
    try:
        async with asyncio.timeout(wait_s):
            message = await socket.recv()
    except TimeoutError:
        return stream.advance(now())
    return stream.receive(message, now())


async def _send(messages: Sequence[Message], socket: ClientConnection) -> None:
    """Send the messages; that the server has closed the socket shows at the next `recv`."""
    with suppress(ConnectionClosed):
        for message in messages:
            await socket.send(message)
