"""The media socket: Twilio's messages go to the call's session, what the session sends goes to Twilio.

The reader never waits for the workers, nor the writer for the reader.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import assert_never

from fastapi import WebSocket
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio, SendMark
from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.twilio.protocol import StreamProtocol
from app.twilio.wire import ProtocolViolation

NORMAL_CLOSURE = 1000
BLOCKED_AFTER_S = 5.0
"""How long one message may take to leave, up to twice as long, before the socket is given up."""
SILENT_AFTER_S = 20.0
"""A peer that has sent nothing for so long, up to twice as long, no packet and no mark of ours, is gone. Pongs do not
count: some peers send none. A silent caller is not taken for gone: where Twilio sends no packets for silence, it still
returns our marks."""


@dataclass(slots=True)
class _MessageCounts:
    """How many messages have come, how many were begun to be sent, and how many of these have left."""

    received: int = 0
    begun: int = 0
    sent: int = 0


async def run_media_socket(
    websocket: WebSocket,
    call: ActiveCall,
    blocked_after_s: float = BLOCKED_AFTER_S,
    silent_after_s: float = SILENT_AFTER_S,
) -> None:
    protocol, progress = StreamProtocol(), _MessageCounts()
    try:
        await websocket.accept()
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(_write(websocket, protocol, call, progress))
            silence = tasks.create_task(_end_silent(progress, call, silent_after_s))
            blockage = tasks.create_task(_end_blocked(progress, blocked_after_s))
            await _read(websocket, protocol, call, progress)
            silence.cancel()
            await writing
            blockage.cancel()
    except* TimeoutError:
        call.end(EndReason.SOCKET_BLOCKED)
    except* OSError:  # the peer was gone before its socket was accepted
        pass
    finally:
        call.end(EndReason.SOCKET_LOST)


async def _read(websocket: WebSocket, protocol: StreamProtocol, call: ActiveCall, progress: _MessageCounts) -> None:
    while True:
        message = await websocket.receive()
        progress.received += 1
        if message["type"] == "websocket.disconnect":
            call.end(EndReason.SOCKET_LOST, _close_of(message))
            return
        text = message.get("text")
        try:
            event = protocol.receive(text if text is not None else message["bytes"])
        except ProtocolViolation as violation:
            call.end(EndReason.PROTOCOL, f"{violation.reason}: {violation}")
            return
        call.handle_event(event)


def _close_of(message: Message) -> str:
    """Return code and reason of a close: the peer's, or ours if it broke the rules of WebSockets."""
    reason = f": {message['reason']}" if message.get("reason") else ""
    return f"close code {message.get('code')}{reason}"


async def _end_silent(progress: _MessageCounts, call: ActiveCall, silent_after_s: float) -> None:
    before = -1
    while progress.received != before:
        before = progress.received
        await asyncio.sleep(silent_after_s)
    call.end(EndReason.SOCKET_LOST, f"no message for {silent_after_s:.0f} s")


async def _end_blocked(progress: _MessageCounts, blocked_after_s: float) -> None:
    """Raise TimeoutError when one message has not left between two looks: a timer for each costs more than sending."""
    begun = 0
    while progress.sent == progress.begun or progress.begun != begun:
        begun = progress.begun
        await asyncio.sleep(blocked_after_s)
    raise TimeoutError


async def _write(websocket: WebSocket, protocol: StreamProtocol, call: ActiveCall, progress: _MessageCounts) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the peer may be gone already
        while command := await call.outbox.get():
            for message in _messages(protocol, command):
                progress.begun += 1
                await websocket.send_text(message)
                progress.sent += 1
        progress.begun += 1
        await websocket.close(NORMAL_CLOSURE)
    progress.sent = progress.begun


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
