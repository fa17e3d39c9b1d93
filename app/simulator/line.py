"""The socket of one simulated stream: feed the stream what comes, send what it says. It decides nothing."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.simulator.pace import Realtime
from app.simulator.stream import CallerStream, CloseSocket, Command, CutSocket, SendMessage
from app.twilio.wire import ProtocolViolation

USER_AGENT = "Twilio.TmeWs/1.0"
CLOSED_ABNORMALLY = 1006


@dataclass(frozen=True, slots=True)
class HungUp:
    """The caller hung up."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The server closed the socket, or lost it (1006)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Violated:
    """The server sent what Twilio would refuse."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection broke, as the scenario wants it."""


LineEnding = HungUp | Gone | Violated | Cut


def dial(url: str, signature: dict[str, str]) -> connect:
    """Return the upgrade as Twilio makes it: no Origin, no subprotocol, no extensions, no pings."""
    return connect(
        url,
        additional_headers=signature,
        user_agent_header=USER_AGENT,
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=5,
        max_size=2**20,
    )


async def converse(
    socket: ClientConnection, stream: CallerStream, pace: Realtime, on_turn: Callable[[], None]
) -> LineEnding:
    """Conduct the stream until one side ends it; call `on_turn` after every message and every timer."""
    await _do(stream.open(), socket)
    try:
        while not stream.over:
            await _do(await _turn(socket, stream, pace), socket)
            on_turn()
    except ConnectionClosed as closed:
        return _gone(closed)
    except ProtocolViolation as violation:
        return Violated(str(violation))
    return Cut() if stream.cut else HungUp()


async def _turn(socket: ClientConnection, stream: CallerStream, pace: Realtime) -> list[Command]:
    """Wait for a message, but no longer than the stream wants; return what is to be done."""
    if (unread_s := stream.reads_s(pace.now_s(stream.now_s)) - pace.now_s(stream.now_s)) > 0:
        await asyncio.sleep(min(unread_s, pace.wait_s(stream)))
        return stream.advance(pace.now_s(stream.now_s))
    try:
        async with asyncio.timeout(pace.wait_s(stream)):
            message = await socket.recv()
    except TimeoutError:
        return stream.advance(pace.now_s(stream.now_s))
    return stream.receive(message, pace.now_s(stream.now_s))


async def _do(commands: Sequence[Command], socket: ClientConnection) -> None:
    """Obey; that the server has closed the socket shows when the next message is waited for."""
    for command in commands:
        match command:
            case SendMessage(message):
                with suppress(ConnectionClosed):
                    await socket.send(message)
            case CloseSocket():
                await socket.close()
            case CutSocket():
                socket.transport.abort()
            case _:
                assert_never(command)


def _gone(closed: ConnectionClosed) -> Gone:
    return Gone(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Gone(CLOSED_ABNORMALLY, "")
