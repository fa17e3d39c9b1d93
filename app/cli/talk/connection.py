"""One conversation over a WebSocket: the shell around `ChatClient` and a `Sound`."""

import asyncio
import ssl
from http import HTTPStatus

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from app.cli.service_client import one_line
from app.cli.talk.client import SILENT_FOR_S, ChatClient, Event, Heard, Ready, ServerSilent
from app.cli.talk.messages import printable
from app.cli.talk.screen import Screen
from app.cli.talk.sound import Sound
from app.cli.talk.target import Target

TICK_S = 0.01
OPEN_WITHIN_S, CLOSE_WITHIN_S = 15.0, 2.0
MOST_BYTES = 2**18
"""Of a message; 40 ms of Opus are a few hundred."""
MOST_ANSWER = 200
NORMAL_CLOSURE, TRY_AGAIN_LATER = 1000, 1013
ANSWERS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "it refuses: --token, or CHAT_TOKEN in the environment, is missing or wrong",
    HTTPStatus.FORBIDDEN: "it refuses: --token, or CHAT_TOKEN in the environment, is missing or wrong",
    HTTPStatus.NOT_FOUND: "there is no chat: another server, or chat is turned off",
    HTTPStatus.TOO_MANY_REQUESTS: "it refuses: too many attempts, try again in a minute",
    HTTPStatus.SERVICE_UNAVAILABLE: "it takes no conversation now: all its slots may be taken",
}

TRUST = (
    "Give --ca FILE, or for a self-signed certificate the --pin that "
    "`openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints on the server"
)


class TalkFailed(Exception):
    """The conversation did not begin, or broke; the message is one line."""


async def converse(target: Target, sound: Sound, screen: Screen) -> bool:
    """Talk until the sound has ended; return False if the server ended it in order. Raises TalkFailed."""
    loop = asyncio.get_running_loop()
    socket = await _open(target)
    async with socket:
        client = ChatClient(loop.time(), sound.live)
        try:
            while not sound.ended():
                await _send(socket, client, sound, screen)
                for event in await _receive(socket, client):
                    _handle(event, sound, loop.time())
                    screen.show(event)
                client.add_audio(sound.read(loop.time()))
        except ConnectionClosed as closed:
            _check_closure(closed, client.ready)
            return False
        except ServerSilent as error:
            raise TalkFailed(str(error)) from error
    return True


async def _open(target: Target) -> ClientConnection:
    """Connect. No pings: Rust's server reads their payload as a message. The host is pinned: no token is redirected."""
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
            open_timeout=OPEN_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            max_size=MOST_BYTES,
        )
    except (WebSocketException, OSError, ValueError) as error:
        raise TalkFailed(f"{target.shown}: {printable(_reason(error))}") from error


def _reason(error: Exception) -> str:
    match error:
        case InvalidStatus(response=response):
            said = (response.body or b"")[:MOST_ANSWER].decode("utf-8", "replace").strip()
            known = ANSWERS.get(response.status_code, said or "it is no Moshi server")
            return f"{known} (HTTP {response.status_code})"
        case ssl.SSLCertVerificationError():
            return f"{one_line(error)}. {TRUST}"
        case ValueError():
            return f"no connection; redirects to other addresses are not followed ({one_line(error)})"
        case ssl.SSLError() | InvalidHandshake():
            return f"what answers there is no WebSocket server of this kind, ws:// or wss:// ({one_line(error)})"
        case _:
            return f"not reached ({one_line(error)})"


async def _send(socket: ClientConnection, client: ChatClient, sound: Sound, screen: Screen) -> None:
    """Send what is due. Raises ServerSilent, also if the server has stopped reading."""
    loop = asyncio.get_running_loop()
    client.check(loop.time())
    try:
        async with asyncio.timeout(SILENT_FOR_S):
            for message, packet in client.send(loop.time()):
                await socket.send(message)
                sound.add_sent(packet)
                screen.show_levels(packet, sound.buffer)
    except TimeoutError as error:
        raise ServerSilent(f"the server has read nothing for {SILENT_FOR_S:.0f} s") from error


async def _receive(socket: ClientConnection, client: ChatClient) -> list[Event]:
    """Wait for a message, at most until the next tick."""
    try:
        async with asyncio.timeout(TICK_S):
            data = await socket.recv()
    except TimeoutError:
        return []
    event = client.receive(data, asyncio.get_running_loop().time())
    return [] if event is None else [event]


def _handle(event: Event, sound: Sound, now: float) -> None:
    match event:
        case Ready():
            sound.start(now)
        case Heard(samples):
            sound.add_heard(samples)
        case _:
            pass


def _check_closure(closed: ConnectionClosed, ready: bool) -> None:
    """Raise TalkFailed unless the server ended a conversation in order."""
    code = closed.rcvd.code if closed.rcvd else None
    said = printable(closed.rcvd.reason) if closed.rcvd else ""
    if code == TRY_AGAIN_LATER:
        raise TalkFailed(said or ANSWERS[HTTPStatus.SERVICE_UNAVAILABLE])
    if code != NORMAL_CLOSURE:
        raise TalkFailed(
            f"the connection broke ({code}{' ' + said if said else ''})" if code else "the connection broke"
        )
    if not ready:
        raise TalkFailed(said or "the server closed the connection before it was ready")
