"""One conversation over a WebSocket: the shell around `ChatClient` and an `AudioEndpoint`."""

import asyncio

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.cli.talk.screen import Screen
from app.cli.talk.sound import AudioEndpoint, TalkFailed
from app.server.remote.client import SILENT_FOR_S, ChatClient, DecodedAudio, Event, ServerSilent
from app.server.remote.connection import Advice, ConnectionFailed, Target, closing_reason, open_socket
from app.server.remote.messages import Handshake

TICK_S = 0.01
ADVICE = Advice(
    "--token, or CHAT_TOKEN in the environment, is missing or wrong",
    "Give --ca FILE, or for a self-signed certificate the --pin that "
    "`openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints on the server",
)


async def converse(target: Target, sound: AudioEndpoint, screen: Screen) -> bool:
    """Talk until the sound has ended; return False if the server ended it in order. Raises TalkFailed."""
    loop = asyncio.get_running_loop()
    try:
        socket = await open_socket(target, ADVICE)
    except ConnectionFailed as error:
        raise TalkFailed(f"{target.shown}: {error}") from error
    async with socket:
        client = ChatClient(loop.time(), sound.live)
        try:
            while not sound.ended():
                await _send(socket, client, sound, screen)
                if event := await _receive(socket, client):
                    _handle(event, sound, loop.time())
                    screen.show(event)
                client.add_audio(sound.read(loop.time()))
        except ConnectionClosed as closed:
            if why := closing_reason(closed, client.ready):
                raise TalkFailed(why) from closed
            return False
        except ServerSilent as error:
            raise TalkFailed(str(error)) from error
    return True


async def _send(socket: ClientConnection, client: ChatClient, sound: AudioEndpoint, screen: Screen) -> None:
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


async def _receive(socket: ClientConnection, client: ChatClient) -> Event | None:
    try:
        async with asyncio.timeout(TICK_S):
            data = await socket.recv()
    except TimeoutError:
        return None
    return client.receive(data, asyncio.get_running_loop().time())


def _handle(event: Event, sound: AudioEndpoint, now: float) -> None:
    match event:
        case Handshake():
            sound.start(now)
        case DecodedAudio(samples):
            sound.add_heard(samples)
        case _:
            pass
