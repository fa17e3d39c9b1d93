"""Moshi servers elsewhere in place of the pipeline of this machine."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from websockets.asyncio.client import ClientConnection

from app.calls.speech_backend import BackendMessage, ServerVitals
from app.config import Settings, SettingsError
from app.server.remote.call import RemoteCall
from app.server.remote.connection import ConnectionFailed, Target
from app.server.remote.query import personaplex_query
from app.server.remote.servers import Server, Servers
from app.server.remote.targets import PATIENCE, Patience, Targets
from workers.messages import (
    FRAME_S,
    Close,
    DropPrompt,
    Failed,
    Frame,
    Message,
    Open,
    PreparePrompt,
    PromptMessage,
    PromptReady,
    PromptRefused,
    Resume,
    Resumed,
    Said,
    Say,
    Slot,
    Stage,
)
from workers.supervisor import WorkerState

log = logging.getLogger(__name__)

PROCESSING_S = FRAME_S
"""What a server is taken to need for a frame until calls have shown it."""


class NoServer(Exception):
    """No server takes the call; the message is one line."""


class RemotePipeline:
    """`on_message` gets what the servers say, `on_prompt` the answers about prompts. Raises SettingsError."""

    answering = True
    checkpoint = ""
    transcription = None
    sampling: tuple[tuple[str, float], ...] = ()
    process_ids: Mapping[Stage, int] = MappingProxyType({})
    workers: Sequence[WorkerState] = ()

    def __init__(
        self,
        settings: Settings,
        on_message: Callable[[BackendMessage], None],
        on_prompt: Callable[[PromptMessage], None] = lambda _: None,
        patience: Patience = PATIENCE,
    ) -> None:
        urls = settings.model.servers
        try:
            self._targets = Targets(urls, dict(settings.sampling.given), patience)
        except ValueError as error:
            raise SettingsError(f"MOSHI_SERVERS: {error}") from error
        self._on_message, self._on_prompt = on_message, on_prompt
        self._servers = Servers(urls)
        self._changed, self._answered = asyncio.Event(), asyncio.Event()
        self._calls: dict[Slot, tuple[RemoteCall, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trials: set[asyncio.Task[None]] = set()
        self._prompts: dict[str, PreparePrompt] = {}
        self._patience = patience
        self._dropped = 0

    def send(self, message: Message) -> None:
        match message:
            case Open():
                self._open(message)
            case Resume(slot, epoch):  # no server takes over what another one knows
                self._open(Open(slot, epoch, persona=message.persona, seed=message.seed))
                asyncio.get_running_loop().call_soon(self._on_message, Resumed(slot, epoch, 0, message.skipped))
            case Close(slot):
                self._close(slot)
            case Frame(slot) if slot in self._calls:
                self._calls[slot][0].push(message)
            case Say(slot, epoch, sentence):  # no server can be told what to say
                asyncio.get_running_loop().call_soon(self._on_message, Said(slot, epoch, sentence, whole=False))
            case DropPrompt(key):
                self._prompts.pop(key, None)
            case PreparePrompt():
                asyncio.get_running_loop().call_soon(self._on_prompt, self._prepare(message))

    @property
    def ready(self) -> bool:
        return self._servers.ready

    @property
    def slots(self) -> int:
        return self._servers.slots

    @property
    def servers(self) -> Sequence[ServerVitals]:
        return self._servers.vitals

    @property
    def dropped(self) -> int:
        return self._dropped + sum(call.dropped for call, _ in self._calls.values())

    async def wait_ready(self) -> None:
        """Wait until each server was tried and one has answered."""
        await self._answered.wait()

    async def run(self) -> None:
        """Try the servers that are set aside, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                for server in self._servers.begin_trials(loop.time()):
                    self._start(self._try(server), self._trials)
                await self._wait_changed(self._servers.get_timer())
        finally:
            for slot in [*self._calls]:
                self._close(slot)
            for task in self._trials:
                task.cancel()
            while self._tasks or self._trials:
                await asyncio.wait(self._tasks | self._trials)

    async def _run_call(self, call: RemoteCall, opening: Open) -> None:
        """Hold a call at one server after the other, until cancelled; it ends if none takes it."""
        failed = partial(Failed, opening.slot, opening.epoch, Stage.STEP)
        try:
            while self._calls.get(opening.slot, (None, None))[0] is call:  # a task group may swallow a cancellation
                await self._hold(call, await self._acquire())
        except NoServer as error:
            self._on_message(failed(str(error)))
        except Exception as error:  # the root of this task
            log.exception("internal error, this call ends")
            self._on_message(failed(type(error).__name__, internal=True))

    async def _hold(self, call: RemoteCall, server: Server) -> None:
        """Hold one session; a server that has failed is set aside."""
        reason = ""
        try:
            reason = await call.hold(server)
        finally:
            if reason and server.is_new_loss(call.answers):
                self._set_aside(server, reason)
            elif reason:
                log.warning("%s has lost another session: %s", server.name, reason)
            self._start(self._end(server, call.socket), self._tasks)

    async def _acquire(self) -> Server:
        """Return the least busy server, once there is one. Raises NoServer."""
        deadline_s = asyncio.get_running_loop().time() + self._patience.free_s
        while (server := self._servers.acquire()) is None:
            if not await self._wait_changed(deadline_s):
                raise NoServer(f"no Moshi server takes the call ({self._servers.reasons})")
        return server

    def _open(self, opening: Open) -> None:
        self._close(opening.slot)
        prompt = self._prompts.get(opening.persona.prompt)

        def target(server: Server) -> Target:
            return self._targets.target(server.url, opening.persona, prompt)

        call = RemoteCall(opening, target, self._on_message, self._patience)
        self._calls[opening.slot] = call, self._start(self._run_call(call, opening), self._tasks)

    def _close(self, slot: Slot) -> None:
        if slot in self._calls:
            call, task = self._calls.pop(slot)
            self._dropped += call.dropped
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], among: "set[asyncio.Task[None]]") -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(_watch(work))
        among.add(task)
        task.add_done_callback(among.discard)
        return task

    async def _end(self, server: Server, socket: ClientConnection | None) -> None:
        """Count a session as over once its socket is closed."""
        if socket:
            await socket.close()
        server.sessions -= 1
        self._notify()

    async def _try(self, server: Server) -> None:
        try:
            took_s = await self._targets.try_connection(server.url)
        except ConnectionFailed as error:
            self._set_aside(server, str(error))
            return
        server.answer()
        log.info("%s answers after %.0f ms", server.name, took_s * 1000)
        self._notify()

    def _set_aside(self, server: Server, reason: str) -> None:
        back_off_s = server.fail(reason, asyncio.get_running_loop().time())
        log.warning("%s is set aside and tried again in %g s: %s", server.name, back_off_s, reason)
        self._notify()

    def _prepare(self, prompt: PreparePrompt) -> PromptMessage:
        """Keep a prompt for the servers that take one."""
        try:
            if not any(server.url.personaplex for server in self._servers.all):
                raise ValueError("no server of MOSHI_SERVERS takes a prompt or a voice: none has kind=personaplex")
            if prompt.pcm is not None:
                raise ValueError("a voice from a recording cannot be sent to another server")
            personaplex_query(prompt.text, prompt.voice)
        except ValueError as error:
            return PromptRefused(prompt.key, str(error))
        self._prompts[prompt.key] = prompt
        return PromptReady(prompt.key, 0, 0)

    def _notify(self) -> None:
        if self._servers.settled:
            self._answered.set()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_changed(self, until_s: float) -> bool:
        """Wait until something may be different; return False if it is `until_s` before."""
        try:
            async with asyncio.timeout_at(None if until_s == math.inf else until_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


async def _watch(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # the root of a task
        log.exception("internal error")
