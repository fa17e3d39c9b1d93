"""Messages of chats, both ways: what a client may send to our server, and what a server may send to our client.

Everything is real but the workers, who echo, the peer, and the clock, which is virtual. A conversation is made from a
number, its seed, so that one that goes wrong can be had again.
"""

import asyncio
import random
from collections import Counter, deque

import numpy as np
from fastapi import WebSocket
from starlette.types import Message

from app.audio.opus import OpusCodec, PcmCodec
from app.audio.playback_buffer import FRAME, MOST, PlaybackBuffer
from app.calls.admission import VoiceRequest
from app.calls.chat_protocol import Kind
from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.http.chat import ChatSocket
from app.http.chat_query import ChatQueryError, parse_chat_query
from app.http.chat_routes import NEWEST_S
from app.server.remote.client import ChatClient, DecodedAudio
from app.server.remote.messages import ErrorText, TextPiece
from app.twilio.events import CallSid
from tests.fuzz.clock import VirtualLoop
from tests.service.front import front_settings
from tests.service.phone import ACCOUNT
from workers import messages
from workers.messages import FRAME_S, FRAME_SAMPLES, Frame, Pcm

MESSAGES = 40
"""Of a conversation."""
PAGE = FRAME_SAMPLES // 2
PAGES = 60
LONGEST = 20_000
"""Bytes; longer ones are only more of the same."""
NAMES = (
    *("text_temperature", "text_topk", "audio_temperature", "audio_topk", "pad_mult", "text_seed", "audio_seed"),
    *("repetition_penalty_context", "repetition_penalty", "format", "persona", "voice_prompt", "text_prompt", "token"),
)
VALUES = (
    "",
    "0",
    "1",
    "-1",
    "1e308",
    "nan",
    "inf",
    "pcm",
    "ada",
    "../x",
    "\0",
    "\ud800",
    "\n",
    "x" * 5_000,
    "٣",
    "0x1",
)


def _pages() -> list[bytes]:
    """Return Ogg pages of a tone, headers in the first."""
    codec, tone = OpusCodec(), 0.5 * np.sin(np.arange(PAGE) * np.pi / 24)
    return [codec.encode(tone.astype(np.float32)) for _ in range(PAGES)]


class Talker:
    """Writes messages of a protocol that it keeps only now and then."""

    pages = _pages()

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._at = self.random.choice((0, 0, 7))

    def message(self) -> bytes | str:
        kind = self.random.choice((1, 1, 1, 1, 1, 1, 2, 0, 3, 4, 5, 6, 7, 9, 255))
        match self.random.randrange(30):
            case 0:
                return "a text message \0"
            case 1:
                return b""
            case _:
                return bytes([kind]) + (self._ogg() if kind == Kind.AUDIO else self._bytes(200))

    def wait_s(self) -> float:
        return 6.0 if self.random.random() < 0.01 else self.random.choice((0.0, 0.0, 0.02, 0.04, 0.04, 0.04, 0.1, 0.3))

    def query(self) -> dict[str, str]:
        chosen = self.random.sample(NAMES, self.random.randrange(5))
        return {name: self.random.choice((*VALUES, self._bytes(9).decode("latin-1"))) for name in chosen}

    def _ogg(self) -> bytes:
        self._at = (self._at + self.random.choice((1, 1, 1, 1, 1, 0, 2, 9))) % PAGES
        page = bytearray(self.pages[self._at])
        match self.random.randrange(12):
            case 0:
                del page[self.random.randrange(len(page)) :]
            case 1:
                del page[: self.random.randrange(len(page))]
            case 2 | 3:
                for _ in range(self.random.choice((1, 9))):
                    page[self.random.randrange(len(page))] = self.random.randrange(256)
            case 4:
                at = self.random.randrange(len(page))
                page[at:at] = self.random.choice((b"OggS", b"OggS\0\0", bytes(255), self._bytes(300)))
            case 5:
                return self._bytes(1_000)
            case 6:
                return bytes(page) * self.random.randrange(1 + LONGEST // len(page))
            case 7:
                return bytes(self.pages[0])
        return bytes(page)

    def _bytes(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randrange(most))


class OpusIn(OpusCodec):
    """Reads Opus; what is sent, of which no client has a say, is PCM."""

    def encode(self, pcm: Pcm) -> bytes:
        return PcmCodec().encode(pcm)


class ChatServer:
    """Our server, one chat after the other."""

    def __init__(self) -> None:
        self.loop, self.counts = VirtualLoop(), Counter[str]()
        settings = front_settings(max_calls=1)
        self._manager = CallManager(settings, self._send, lambda: True, clock=self.loop.time)
        self._manager.start_accepting(1, processing_s=0.01)
        self._frames: deque[Frame] = deque()

    def run(self, seed: int) -> None:
        """Have one conversation. Raises what should never be."""
        try:
            self.loop.run_until_complete(self._run(Talker(seed), CallSid(f"chat-{seed}")))
            assert self.loop.errors == []
            assert self._manager.free_slots == 1
        except Exception as error:
            error.add_note(f"in chat {seed}")
            raise

    def close(self) -> None:
        self.loop.close()

    def _send(self, message: messages.Message) -> None:
        if isinstance(message, Frame):
            assert message.pcm is not None
            assert message.pcm.shape == (FRAME_SAMPLES,)
            assert np.isfinite(message.pcm).all()
            self._frames.append(message)

    async def _run(self, talker: Talker, call_sid: CallSid) -> None:
        self._check_query(talker.query())
        texts = self._manager.events.subscribe(call_sid)
        reservation = self._manager.reserve(call_sid, VoiceRequest(chat=True))
        assert reservation is not None
        call = self._manager.claim(reservation.token)
        assert call is not None
        says, heard = asyncio.Queue[Message](), list[Message]()
        says.put_nowait({"type": "websocket.connect"})

        async def receive(message: Message) -> None:
            heard.append(message)

        socket = WebSocket({"type": "websocket", "path": "/", "headers": []}, says.get, receive)
        codec = talker.random.choice((OpusIn(NEWEST_S), PcmCodec()))
        serving = self.loop.create_task(ChatSocket(socket, call, codec, texts, {}, ACCOUNT).run())
        self._manager.handle_message(Frame(reservation.slot, reservation.epoch, 0, np.zeros(FRAME_SAMPLES, np.float32)))
        began_s, frames = self.loop.time(), 0
        for _ in range(MESSAGES):
            said = talker.message()
            says.put_nowait({"type": "websocket.receive", "text" if isinstance(said, str) else "bytes": said})
            self.counts["messages"] += 1
            await asyncio.sleep(talker.wait_s())
            while self._frames:
                frames += 1
                self._manager.handle_message(self._frames.popleft())
        assert frames <= (self.loop.time() - began_s) / FRAME_S + 2, "no client makes the workers work faster"
        says.put_nowait({"type": "websocket.disconnect", "code": talker.random.choice((1000, 1005, 1006, None))})
        await serving
        self._frames.clear()
        end = call.session.record.end
        assert end in (EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST), end
        self._check_heard([one["bytes"] for one in heard if one["type"] == "websocket.send"])
        self.counts["frames"] += frames
        self.counts["spoken"] += call.session.counts["packets_in"]

    def _check_heard(self, messages: list[bytes]) -> None:
        assert messages[0] == Kind.HANDSHAKE.message()
        assert {Kind(one[0]) for one in messages} <= {Kind.HANDSHAKE, Kind.METADATA, Kind.AUDIO, Kind.PING}
        assert {len(one) for one in messages if one[0] == Kind.AUDIO} <= {1 + PAGE * packets for packets in (2, 3, 4)}

    def _check_query(self, query: dict[str, str]) -> None:
        try:
            parse_chat_query(query)
        except ChatQueryError as error:
            self.counts["refused"] += 1
            if len(str(error).splitlines()) != 1:
                raise AssertionError("a refusal is one line") from error


class Client:
    """Our client, one conversation after the other."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def run(self, seed: int) -> None:
        """Have one conversation. Raises what should never be."""
        talker, buffer, now = Talker(seed), PlaybackBuffer(), 0.0
        client = ChatClient(now, live=bool(seed % 2))
        if seed % 8:
            client.receive(Kind.HANDSHAKE.message(), now)
        try:
            for _ in range(MESSAGES):
                self._receive(client, buffer, talker.message(), now)
                now += (wait_s := talker.wait_s())
                if seed % 8 == 1:  # encoding takes longest, and no server has a say in it
                    client.add_audio(np.zeros(round(24_000 * wait_s), np.float32))
                    client.send(now)
                assert np.isfinite(buffer.pull(round(24_000 * wait_s))).all()
        except Exception as error:
            error.add_note(f"in conversation {seed}")
            raise

    def close(self) -> None: ...

    def _receive(self, client: ChatClient, buffer: PlaybackBuffer, data: bytes | str, now: float) -> None:
        self.counts["messages"] += 1
        event = client.receive(data, now)
        self.counts[type(event).__name__] += 1
        match event:
            case DecodedAudio(samples):
                buffer.push(samples)
                assert buffer.buffered <= FRAME + 2 * MOST, "no server makes what is to be played longer"
            case TextPiece(text) | ErrorText(text):
                assert not text or text.isprintable()
