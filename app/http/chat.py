"""The chat socket: Moshi's own protocol, as Kyutai's clients speak it.

From the client only audio matters; what comes before the handshake is not heard. The client's audio is read as fast as
`AudioBudget` allows, so that a flood waits in the client's own buffers.
"""

import asyncio
import contextlib
import json

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from app.audio.opus import ChatCodec
from app.audio.playout import SendAudio
from app.calls.active_call import ActiveCall
from app.calls.chat_inbound import ChatAudioCounter
from app.calls.chat_protocol import Kind
from app.calls.end_reason import EndReason
from app.calls.events import EventKind, Subscription
from app.calls.session import CallState
from app.http.media import BLOCKED_AFTER_S, NORMAL_CLOSURE
from app.twilio.events import Connected, Started, StreamSid
from workers.messages import SAMPLE_RATE_HZ

PING_AFTER_S = 4.0
"""Kyutai's page closes itself after ten seconds without any message."""
READ_SPEED = 2.0
"""Seconds of audio that are read in a second, once a burst has used the budget up."""
BURST_S = 4.0
MESSAGE_S = 0.002
"""What a message without audio counts."""
PCM_BYTES_S = 2 * SAMPLE_RATE_HZ
GOING_AWAY, NO_STATUS = 1001, 1005
SERVICE_RESTART = 1012
RESTARTS = {EndReason.SHUTDOWN, EndReason.WORKER_LOST}
"""Ends after which a client may call again at once."""
HANGUP_CODES = {NORMAL_CLOSURE, GOING_AWAY, NO_STATUS}


class AudioBudget:
    """How much audio may be read: `BURST_S` at once, then `READ_SPEED` times what is spoken; `now` in seconds."""

    def __init__(self, now: float) -> None:
        self._left_s, self._at_s = BURST_S, now

    def spend(self, audio_s: float, now: float) -> float:
        """Return how many seconds to wait before more is read."""
        self._left_s = min(BURST_S, self._left_s + (now - self._at_s) * READ_SPEED) - max(audio_s, MESSAGE_S)
        self._at_s = now
        return max(0.0, -self._left_s / READ_SPEED)


class ChatSocket:
    """One chat: `texts` are the events of its call, `metadata` is what is true of it."""

    def __init__(
        self,
        websocket: WebSocket,
        call: ActiveCall,
        codec: ChatCodec,
        texts: Subscription,
        metadata: dict[str, object],
        account_sid: str,
    ) -> None:
        self._websocket, self._call, self._codec = websocket, call, codec
        self._texts, self._metadata = texts, metadata
        self._started = Started(StreamSid(call.session.record.call_sid), call.session.record.call_sid, account_sid)

    async def run(self) -> None:
        try:
            await self._websocket.accept()
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read())
                if self._call.session.record.greeting_frames:
                    await self._call.sounds.wait()
                await self._begin()
                tasks.create_task(self._write_texts())
                await self._write()
                reading.cancel()
        except* TimeoutError:
            self._call.end(EndReason.SOCKET_BLOCKED)
        except* (WebSocketDisconnect, RuntimeError):  # the peer may be gone already
            self._call.end(EndReason.SOCKET_LOST)
        finally:
            self._call.end(EndReason.SOCKET_LOST)

    async def _begin(self) -> None:
        if self._call.over:
            return
        await self._send(Kind.HANDSHAKE.message())
        await self._send(Kind.METADATA.message(json.dumps(self._metadata).encode()))
        self._call.handle_event(Connected())
        self._call.handle_event(self._started)

    async def _read(self) -> None:
        counter, budget = ChatAudioCounter(), AudioBudget(self._call.clock())
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            data: bytes = message.get("bytes") or b""
            audio_s = len(data) / PCM_BYTES_S
            if data[:1] == Kind.AUDIO.message() and self._call.session.state is CallState.LIVE:
                pcm = self._codec.decode(data[1:])
                audio_s = max(audio_s, len(pcm) / SAMPLE_RATE_HZ)
                self._call.handle_event(counter.count(pcm))
            if wait_s := budget.spend(audio_s, self._call.clock()):
                await asyncio.sleep(wait_s)
        code = message.get("code")
        self._call.end(
            EndReason.CALLER_HUNG_UP if code in HANGUP_CODES else EndReason.SOCKET_LOST, f"close code {code}"
        )

    async def _write(self) -> None:
        while True:
            command = None
            try:
                async with asyncio.timeout(PING_AFTER_S):
                    command = await self._call.outbox.get()
            except TimeoutError:
                await self._send(Kind.PING.message())
                continue
            if command is None:
                break
            if isinstance(command, SendAudio) and (pcm := command.pcm) is not None:
                await self._send(Kind.AUDIO.message(self._codec.encode(pcm)))
        end = self._call.session.record.end
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(BLOCKED_AFTER_S):
                await self._websocket.close(SERVICE_RESTART if end in RESTARTS else NORMAL_CLOSURE, end)

    async def _write_texts(self) -> None:
        async for event in self._texts:
            if event.kind is EventKind.DISCONNECTED:
                return
            if event.kind is EventKind.TEXT:
                await self._send(Kind.TEXT.message(str(event.fields["text"]).encode()))

    async def _send(self, message: bytes) -> None:
        async with asyncio.timeout(BLOCKED_AFTER_S):
            await self._websocket.send_bytes(message)
