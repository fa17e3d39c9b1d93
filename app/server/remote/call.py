"""One call at a Moshi server, and at the next one when that is lost.

A session begins with the caller's first frame, since a server that has a clock of its own speaks at once; PersonaPlex,
which has none and takes long, is told who speaks while the phone still rings. From then on the server gets audio at the
pace of speech, silence where the caller's is missing: most servers are clocked by it. What comes is passed on at once:
a frame in one message or in pages that come together, or less if no more comes within `TOGETHER_S`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.audio.opus import ChatCodec, OpusCodec, PcmCodec
from app.calls.chat_leg import PACKET_SAMPLES
from app.calls.chat_protocol import Kind
from app.calls.speaker import Moved, SpeakerMessage
from app.server.remote import client as chat
from app.server.remote.connection import (
    ConnectionFailed,
    Target,
    closing_reason,
    open_socket,
    wait_handshake,
)
from app.server.remote.servers import Server
from app.server.remote.targets import ADVICE, Patience
from workers.messages import FRAME_SAMPLES, Failed, Frame, Open, Pcm, Stage

log = logging.getLogger(__name__)

MOST_HEARD_S = 2.0
"""Of one message of a server no more is decoded."""
MOST_TEXT = 1_000
"""So many characters wait for the sound that they come with; a server that sends none must not fill our memory."""
LOOK_EVERY_S = 1.0
TOGETHER_S = 0.01


class NoServer(Exception):
    """No server takes the call; the message is one line."""


class _Lost(Exception):
    """The session is over, for this reason."""


class Switchable(Protocol):
    """Gives out servers, and takes them back."""

    async def acquire(self) -> Server:
        """Raises NoServer."""

    def give_back(self, server: Server, socket: ClientConnection | None, reason: str, answers: int) -> None:
        """Close the socket; with a `reason` the session was lost, which was last alive after so many `answers`."""


class RemoteCall:
    """`emit` gets what the server says; `target` makes the address at a server."""

    def __init__(
        self,
        opening: Open,
        servers: Switchable,
        target: Callable[[Server], Target],
        emit: Callable[[SpeakerMessage], None],
        patience: Patience,
    ) -> None:
        self.dropped = 0
        """Frames of the caller's that were too late for a server."""
        self._opening, self._servers, self._target = opening, servers, target
        self._emit, self._patience = emit, patience
        self._client: chat.ChatClient | None = None
        self._speaks, self._due = asyncio.Event(), asyncio.Event()
        self._seq = 0
        self._heard = np.zeros(0, np.float32)
        self._text = ""
        self._answers = 0
        """How many trials the server had answered when its session was last alive."""
        self._lost = ""
        """Why the last session in which the server was ready is over."""

    def push(self, frame: Frame) -> None:
        """Send one of the caller's frames."""
        self._seq = frame.seq
        self._speaks.set()
        if self._client and frame.pcm is not None:
            self._client.add_audio(frame.pcm)
            self._due.set()

    async def run(self) -> None:
        """Talk until cancelled; the call ends if no server takes it."""
        slot, epoch = self._opening.slot, self._opening.epoch
        try:
            while True:
                await self._hold(await self._servers.acquire())
        except NoServer as error:
            self._emit(Failed(slot, epoch, Stage.STEP, str(error)))
        except Exception as error:  # the root of this task
            log.exception("internal error, this call ends")
            self._emit(Failed(slot, epoch, Stage.STEP, type(error).__name__, internal=True))

    async def _hold(self, server: Server) -> None:
        """Hold one session, to its end."""
        socket: ClientConnection | None = None
        reason = ""
        try:
            if not server.url.personaplex:
                await self._speaks.wait()
            target, self._answers = self._target(server), server.answers
            socket = await open_socket(target, ADVICE, self._patience.open_s)
            await wait_handshake(socket, self._patience.handshake_s(server.url))
            reason = await self._talk(socket, server)
        except ConnectionFailed as error:
            reason = str(error)
        finally:
            self._stop()
            self._servers.give_back(server, socket, reason, self._answers)

    async def _talk(self, socket: ClientConnection, server: Server) -> str:
        """Return why the session is over."""
        if self._lost:
            self._emit(Moved(self._opening.slot, self._opening.epoch, self._lost))
        codec: ChatCodec = PcmCodec() if server.url.query.get("format") == "pcm" else OpusCodec(MOST_HEARD_S)
        now = asyncio.get_running_loop().time()
        silent_s = self._patience.silent_s
        client = self._client = chat.ChatClient(now, live=True, fills=True, codec=codec, silent_for_s=silent_s)
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
        except (chat.ServerSilent, TimeoutError) as error:
            raise _Lost(str(error) or "the server reads nothing") from error

    async def _read(self, socket: ClientConnection, server: Server, client: chat.ChatClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(TOGETHER_S if len(self._heard) >= PACKET_SAMPLES else None):
                    data = await socket.recv()
            except TimeoutError:
                self._pass_on_heard(len(self._heard) // PACKET_SAMPLES * PACKET_SAMPLES)
                continue
            match client.receive(data, loop.time()):
                case chat.Heard(samples) if len(samples):
                    server.speak()
                    self._answers = server.answers
                    self._hear(samples)
                case chat.Said(text):
                    self._text += text
                    if len(self._text) >= MOST_TEXT:
                        self._pass_on(None)
                case chat.Failed(text):
                    log.warning("%s says: %.200s", server.name, text)

    async def _write(self, socket: ClientConnection, client: chat.ChatClient) -> None:
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
                async with asyncio.timeout_at(min(client.pacer.get_timer(), now + LOOK_EVERY_S)):
                    await self._due.wait()

    def _hear(self, samples: Pcm) -> None:
        """Pass on what is a whole frame, with the text that came before."""
        self._heard = np.concatenate([self._heard, samples])
        while len(self._heard) >= FRAME_SAMPLES:
            self._pass_on_heard(FRAME_SAMPLES)

    def _pass_on_heard(self, samples: int) -> None:
        self._pass_on(self._heard[:samples])
        self._heard = self._heard[samples:]

    def _pass_on(self, pcm: Pcm | None) -> None:
        text, self._text = self._text, ""
        self._emit(Frame(self._opening.slot, self._opening.epoch, self._seq, pcm, text))

    def _stop(self) -> None:
        """Forget what has not become a frame; the text stays."""
        if self._client:
            self.dropped += self._client.pacer.dropped // FRAME_SAMPLES
        self._client, self._heard = None, self._heard[:0]
        if self._text:
            self._pass_on(None)
