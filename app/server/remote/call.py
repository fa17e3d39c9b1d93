"""One call's sessions at Moshi servers, one after the other.

A session begins with the caller's first frame, since a server that has a clock of its own speaks at once; PersonaPlex,
which has none and takes long, is told who speaks while the phone still rings. From then on the server gets audio at the
pace of speech, silence where the caller's is missing: most servers are clocked by it. What comes is passed on at once:
a frame in one message or in pages that come together, or less if no more comes within `TOGETHER_S`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.audio.opus import ChatCodec, OpusCodec, PcmCodec
from app.calls.chat_leg import PACKET_SAMPLES
from app.calls.chat_protocol import Kind
from app.calls.speech_backend import BackendMessage, Moved
from app.server.remote.client import ChatClient, DecodedAudio, ServerSilent
from app.server.remote.connection import ConnectionFailed, Target, closing_reason, open_socket, wait_handshake
from app.server.remote.messages import ErrorText, TextPiece
from app.server.remote.servers import Server
from app.server.remote.targets import ADVICE, Patience
from workers.messages import FRAME_SAMPLES, Frame, Open, Pcm

log = logging.getLogger(__name__)

MOST_DECODED_S = 2.0
"""Of one message of a server no more is decoded."""
MOST_TEXT = 1_000
"""So many characters wait for the sound that they come with; a server that sends none must not fill our memory."""
CHECK_EVERY_S = 1.0
TOGETHER_S = 0.01


class _Lost(Exception):
    """The session is over, for this reason."""


class RemoteCall:
    """`emit` gets what the server says; `target` makes the address at a server."""

    def __init__(
        self,
        opening: Open,
        target: Callable[[Server], Target],
        emit: Callable[[BackendMessage], None],
        patience: Patience,
    ) -> None:
        self._dropped = 0
        """In the sessions that are over."""
        self.socket: ClientConnection | None = None
        """Of the last session."""
        self.answers = 0
        """How many trials its server had answered when that session was last alive."""
        self._opening, self._target = opening, target
        self._emit, self._patience = emit, patience
        self._client: ChatClient | None = None
        self._speaks, self._due = asyncio.Event(), asyncio.Event()
        self._seq = 0
        self._received = np.zeros(0, np.float32)
        self._text = ""
        self._lost = ""
        """Why the last session in which the server was ready is over."""

    @property
    def dropped(self) -> int:
        """Frames of the caller's that were too late for a server."""
        return self._dropped + (self._client.pacer.dropped // FRAME_SAMPLES if self._client else 0)

    def push(self, frame: Frame) -> None:
        self._seq = frame.seq
        self._speaks.set()
        if self._client and frame.pcm is not None:
            self._client.add_audio(frame.pcm)
            self._due.set()

    async def hold(self, server: Server) -> str:
        """Hold one session at a server, to its end; return why that has failed. The socket is left open."""
        self.socket = None
        try:
            if not server.url.personaplex:
                await self._speaks.wait()
            target, self.answers = self._target(server), server.answers
            self.socket = await open_socket(target, ADVICE, self._patience.open_s)
            await wait_handshake(self.socket, self._patience.handshake_s(server.url))
            return await self._talk(self.socket, server)
        except ConnectionFailed as error:
            return str(error)
        finally:
            self._stop()

    async def _talk(self, socket: ClientConnection, server: Server) -> str:
        """Return why the session is over."""
        if self._lost:
            self._emit(Moved(self._opening.slot, self._opening.epoch, self._lost))
        codec: ChatCodec = PcmCodec() if server.url.query.get("format") == "pcm" else OpusCodec(MOST_DECODED_S)
        now = asyncio.get_running_loop().time()
        silent_s = self._patience.silent_s
        client = self._client = ChatClient(now, live=True, fills=True, codec=codec, silent_for_s=silent_s)
        client.receive(Kind.HANDSHAKE.message(), now)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._lose(self._read(socket, server, client)))
                tasks.create_task(self._lose(self._write(socket, client)))
        except* _Lost as lost:
            self._lost = f"{server.name}: {lost.exceptions[0]}"
        return self._lost.removeprefix(f"{server.name}: ")

    async def _lose(self, work: Awaitable[None]) -> None:
        """Raises _Lost in place of what a socket raises."""
        try:
            await work
        except ConnectionClosed as closed:
            raise _Lost(closing_reason(closed, ready=True) or "the server ended the conversation") from closed
        except (ServerSilent, TimeoutError) as error:
            raise _Lost(str(error) or "the server reads nothing") from error

    async def _read(self, socket: ClientConnection, server: Server, client: ChatClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(TOGETHER_S if len(self._received) >= PACKET_SAMPLES else None):
                    data = await socket.recv()
            except TimeoutError:
                self._emit_frame(len(self._received) // PACKET_SAMPLES * PACKET_SAMPLES)
                continue
            match client.receive(data, loop.time()):
                case DecodedAudio(samples) if len(samples):
                    server.speak()
                    self.answers = server.answers
                    self._receive_audio(samples)
                case TextPiece(text):
                    self._text += text
                    if len(self._text) >= MOST_TEXT:
                        self._emit_frame(0)
                case ErrorText(text):
                    log.warning("%s says: %.200s", server.name, text)

    async def _write(self, socket: ClientConnection, client: ChatClient) -> None:
        """Send what is due. Raises ServerSilent, and TimeoutError if the server has stopped reading."""
        loop = asyncio.get_running_loop()
        await self._speaks.wait()
        client.start(loop.time())
        while True:
            self._due.clear()
            now = loop.time()
            client.check(now)
            if packets := client.pacer.pull(now):
                async with asyncio.timeout(self._patience.silent_s):
                    await socket.send(client.encode(np.concatenate(packets)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(client.pacer.get_timer(), now + CHECK_EVERY_S)):
                    await self._due.wait()

    def _receive_audio(self, samples: Pcm) -> None:
        self._received = np.concatenate([self._received, samples])
        while len(self._received) >= FRAME_SAMPLES:
            self._emit_frame(FRAME_SAMPLES)

    def _emit_frame(self, samples: int) -> None:
        """Emit so many samples of what was received, with the text that came before."""
        pcm, self._received = self._received[:samples], self._received[samples:]
        text, self._text = self._text, ""
        self._emit(Frame(self._opening.slot, self._opening.epoch, self._seq, pcm if samples else None, text))

    def _stop(self) -> None:
        """Forget what has not become a frame; the text stays."""
        self._dropped, self._client, self._received = self.dropped, None, self._received[:0]
        if self._text:
            self._emit_frame(0)
