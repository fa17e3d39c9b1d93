"""The socket of one simulated stream: feed the stream what arrives, send what it says."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.simulator.report import Outcome
from app.simulator.stream import CallerStream, CloseSocket, Command, CutSocket, SendMessage
from app.twilio.wire import ProtocolViolation

USER_AGENT = "Twilio.TmeWs/1.0"
CLOSED_NORMALLY, CLOSED_ABNORMALLY = 1000, 1006


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended. Without an `outcome` the server closed the socket, and the call goes on with its TwiML."""

    outcome: Outcome | None
    sentence: str = ""
    close_code: int = CLOSED_NORMALLY
    close_reason: str = ""


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
    socket: ClientConnection, stream: CallerStream, now: Callable[[], float], on_turn: Callable[[], None]
) -> StreamEnd:
    """Run the stream until one side ends it; call `on_turn` after every message and every timer.

    `now` is in seconds since the call's first stream started.
    """
    await _do(stream.open(), socket)
    try:
        while not stream.over:
            await _do(await _turn(socket, stream, now), socket)
            on_turn()
    except ConnectionClosed as closed:
        close = closed.rcvd
        return StreamEnd(None, "", close.code, close.reason) if close else StreamEnd(None, "", CLOSED_ABNORMALLY)
    except ProtocolViolation as violation:
        return StreamEnd(Outcome.PROTOCOL_VIOLATION, str(violation))
    if stream.cut:
        return StreamEnd(Outcome.LINE_CUT, "the connection broke, as the scenario wants it")
    return StreamEnd(Outcome.CALLER_HUNG_UP, "the caller hung up")


async def _turn(socket: ClientConnection, stream: CallerStream, now: Callable[[], float]) -> list[Command]:
    """Wait for a message or the stream's timer; return the commands that follow."""
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


async def _do(commands: Sequence[Command], socket: ClientConnection) -> None:
    """Carry the commands out; that the server has closed the socket shows at the next `recv`."""
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
