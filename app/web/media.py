"""The media socket: reads Twilio's messages into a session, writes what the session sends.

The reader never waits for the workers, nor the writer for the reader; the session between them decides.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import assert_never

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from app.call.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.call.record import EndReason
from app.service.switchboard import Call, Switchboard
from app.twilio.protocol import ProtocolViolation, StreamProtocol

NORMAL_CLOSURE = 1000
BLOCKED_AFTER_S = 5.0
"""How long one message may take to leave before the socket is given up as half dead."""


async def run_media_socket(
    websocket: WebSocket, call: Call, switchboard: Switchboard, blocked_after_s: float = BLOCKED_AFTER_S
) -> None:
    """Accept the socket and serve it until the call has ended and the socket is closed.

    One that takes a message not within `blocked_after_s` is left to be torn down.
    """
    await websocket.accept()
    protocol = StreamProtocol()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(websocket, protocol, call, blocked_after_s))
            await _read(websocket, protocol, call, switchboard)
    except* TimeoutError:
        switchboard.end(call, EndReason.SOCKET_BLOCKED)
    finally:
        switchboard.end(call, EndReason.SOCKET_LOST)


async def _read(websocket: WebSocket, protocol: StreamProtocol, call: Call, switchboard: Switchboard) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            switchboard.end(call, EndReason.SOCKET_LOST, f"close code {message.get('code')}")
            return
        text = message.get("text")
        try:
            event = protocol.receive(text if text is not None else message["bytes"])
        except ProtocolViolation as violation:
            switchboard.end(call, EndReason.PROTOCOL, f"{violation.reason}: {violation}")
            return
        switchboard.take_event(call, event)


async def _write(websocket: WebSocket, protocol: StreamProtocol, call: Call, blocked_after_s: float) -> None:
    while (command := await call.outbox.get()) is not None:
        for message in _messages(protocol, command):
            await _within(blocked_after_s, websocket.send_text(message))
    await _within(blocked_after_s, websocket.close(NORMAL_CLOSURE))


async def _within(limit_s: float, sending: Awaitable[None]) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the peer may be gone already
        async with asyncio.timeout(limit_s):
            await sending


def _messages(protocol: StreamProtocol, command: PlayoutCommand) -> tuple[str, ...]:
    match command:
        case SendAudio(payload, mark):
            return (protocol.media(payload), protocol.mark(mark)) if mark else (protocol.media(payload),)
        case SendMark(mark):
            return (protocol.mark(mark),)
        case ClearAudio():
            return (protocol.clear(),)
        case _:
            assert_never(command)
