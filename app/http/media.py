"""The media socket: reads Twilio's messages into a session, writes what the session sends.

The reader never waits for the workers, nor the writer for the reader; the session between them decides.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import assert_never

from fastapi import WebSocket
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.calls.manager import ActiveCall, CallManager
from app.calls.record import EndReason
from app.twilio.protocol import StreamProtocol
from app.twilio.wire import ProtocolViolation

NORMAL_CLOSURE = 1000
BLOCKED_AFTER_S = 5.0
"""How long one message may take to leave before the socket is given up as half dead."""
SILENT_AFTER_S = 20.0
"""A peer that has sent nothing for so long, no packet and no mark of ours, is gone. Pongs do not count: some peers send
none. A silent caller is not taken for gone: where Twilio sends no packets for silence, it still returns our marks."""


@dataclass(slots=True)
class _Heard:
    """How many messages the peer has sent."""

    messages: int = 0


async def run_media_socket(
    websocket: WebSocket,
    call: ActiveCall,
    manager: CallManager,
    blocked_after_s: float = BLOCKED_AFTER_S,
    silent_after_s: float = SILENT_AFTER_S,
) -> None:
    """Accept the socket and serve it until the call has ended and the socket is closed.

    One that takes a message not within `blocked_after_s` is left to be torn down; one that sends none for
    `silent_after_s`, up to twice as long, is closed.
    """
    await websocket.accept()
    protocol, heard = StreamProtocol(), _Heard()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(websocket, protocol, call, blocked_after_s))
            watching = tasks.create_task(_watch(heard, call, manager, silent_after_s))
            await _read(websocket, protocol, call, manager, heard)
            watching.cancel()
    except* TimeoutError:
        manager.end(call, EndReason.SOCKET_BLOCKED)
    finally:
        manager.end(call, EndReason.SOCKET_LOST)


async def _read(
    websocket: WebSocket, protocol: StreamProtocol, call: ActiveCall, manager: CallManager, heard: _Heard
) -> None:
    while True:
        message = await websocket.receive()
        heard.messages += 1
        if message["type"] == "websocket.disconnect":
            manager.end(call, EndReason.SOCKET_LOST, _close_of(message))
            return
        text = message.get("text")
        try:
            event = protocol.receive(text if text is not None else message["bytes"])
        except ProtocolViolation as violation:
            manager.end(call, EndReason.PROTOCOL, f"{violation.reason}: {violation}")
            return
        manager.handle_event(call, event)


def _close_of(message: Message) -> str:
    """Return code and reason of a close: the peer's, or ours if it broke the rules of WebSockets."""
    reason = f": {message['reason']}" if message.get("reason") else ""
    return f"close code {message.get('code')}{reason}"


async def _watch(heard: _Heard, call: ActiveCall, manager: CallManager, silent_after_s: float) -> None:
    before = -1
    while heard.messages != before:
        before = heard.messages
        await asyncio.sleep(silent_after_s)
    manager.end(call, EndReason.SOCKET_LOST, f"no message for {silent_after_s:.0f} s")


async def _write(websocket: WebSocket, protocol: StreamProtocol, call: ActiveCall, blocked_after_s: float) -> None:
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
