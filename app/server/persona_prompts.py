"""The personas of a running service: chosen for each call, read again when files change, their prompts prepared."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from app.calls.personas import NOBODY, Chosen, Persona
from app.calls.prompts import PromptRejected, Prompts, PromptUnavailable
from app.config import Settings, SettingsError
from app.server.one_time_prompts import OneTimePrompts
from app.server.persona_folder import PersonaFolder
from app.server.voice_recording import RecordingError
from workers.messages import CallPersona, PreparePrompt, PromptMessage, PromptReady, PromptRefused

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""So that the prompt of an edited file is mostly ready before the next call."""
REFRESH_WITHIN_S = 1.0
"""A call does not wait longer for a slow disk; then the personas are those of before."""


class ServicePersonas:
    """`send` passes a message to the workers. Raises SettingsError if a file is wrong."""

    def __init__(self, settings: Settings, send: Callable[[PromptMessage], None]) -> None:
        self._send, self._listens = send, settings.personas.greeting_listens
        self._folder = PersonaFolder(settings.personas.folder, settings.personas.default)
        self._folder.load()
        self._is_off = settings.personas.folder is None
        self._prompts, self._once = Prompts(), OneTimePrompts(send)
        self._prompts.want(self._folder.state.prompts)
        self._settled, self._lost = asyncio.Event(), asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._is_starting = True

    @property
    def settled(self) -> bool:
        """Whether each prompt is ready or refused, of those that there were when the pipeline was started."""
        return self._prompts.settled

    def choose(self, name: str, called: str, prompt: str = "") -> Chosen:
        """Return the persona that a call names, else that of the number called, else the default.

        It has the one-time prompt with the id `prompt` if there is one, which is used then, else its own.
        """
        persona = self._folder.state.personas.choose(name, called)
        name = _name(persona)
        listens = self._listens and bool(persona.greeting)
        once = self._once.use(prompt)
        key = once.key if once else self._prompts.key(name)
        speaker = CallPersona(persona.greeting, listens, key, persona.sampling.given)
        return Chosen(name, speaker, once, persona.transfer_to)

    def former(self, key: str) -> PreparePrompt | None:
        """Return a persona's prompt that calls have begun with and that the pipeline is told of no more, else None."""
        return self._prompts.former(key)

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        """Compute a prompt for one call of a persona; return its id. Without text or voice they are the persona's.

        Raises PromptRejected, PromptUnavailable.
        """
        await self.refresh()
        if not self.settled:
            raise PromptUnavailable("the service is starting, or starts its pipeline again")
        state = self._folder.state
        own = state.prompts.get(_name(state.personas.choose(name, "")), PreparePrompt("", ""))
        if voice:
            try:
                read = await asyncio.to_thread(self._folder.read_voice, voice)
            except (RecordingError, OSError) as error:
                raise PromptRejected(f"voice: {error.strerror if isinstance(error, OSError) else error}") from error
            own = replace(own, voice=read.voice, pcm=read.pcm)
        return await self._once.prepare(replace(own, text=text or own.text))

    def drop_once(self, prompt: str) -> None:
        self._once.use(prompt)

    async def refresh(self) -> None:
        """Read what has changed since the last call, off the event loop."""
        if self._is_off:
            return
        before = self._refreshing
        if before:
            await asyncio.wait({before}, timeout=REFRESH_WITHIN_S)
            if not before.done():
                return
        if self._refreshing is before:
            self._refreshing = asyncio.create_task(self._refresh())
        assert self._refreshing
        await asyncio.wait({self._refreshing}, timeout=REFRESH_WITHIN_S)

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look for changes and drop what has expired, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self._once.expire()
            await self.refresh()

    async def run(self, wait_ready: Callable[[], Awaitable[None]]) -> None:
        """Prepare the prompts each time that the pipeline is ready, until cancelled."""
        while True:
            self._lost.clear()
            await wait_ready()
            if self._lost.is_set():
                continue
            self._send_all(self._prompts.on_pipeline_ready())
            await self._lost.wait()

    async def wait_prepared(self) -> None:
        """Wait for the first prompts. Raises SettingsError with a line for each persona whose prompt is refused."""
        await self._settled.wait()
        if refusals := self._prompts.refusals:
            raise SettingsError("\n".join(f"{self._file(name)}: {reason}" for name, reason, _ in refusals))
        self._is_starting = False

    def on_pipeline_lost(self) -> None:
        self._prompts.on_pipeline_lost()
        self._once.on_pipeline_lost()
        self._settled.clear()
        self._lost.set()

    def handle_message(self, answer: PromptMessage) -> None:
        if not isinstance(answer, PromptReady | PromptRefused):
            return
        self._once.on_answer(answer)
        self._send_all(self._prompts.on_answer(answer))
        if isinstance(answer, PromptRefused) and not self._is_starting:
            for name, reason, key in self._prompts.refusals:
                if self._prompts.answer(name) is answer:
                    instead = "with the former one" if key else "without one"
                    log.error("%s: the prompt is refused, calls begin %s: %s", self._file(name), instead, reason)

    def as_json(self) -> list[dict[str, object]]:
        """Return the personas for operators, in the order of their files."""
        personas = self._folder.state.personas
        return [self._as_json(one, one is personas.default) for one in personas.by_name.values()]

    def _as_json(self, persona: Persona, is_default: bool) -> dict[str, object]:
        answer = self._prompts.answer(persona.name)
        return {
            "name": persona.name,
            "default": is_default,
            "numbers": list(persona.numbers),
            "greeting": persona.greeting,
            "voice": persona.voice,
            "prompt_characters": len(persona.prompt),
            "prompt_steps": answer.positions if isinstance(answer, PromptReady) else None,
            "prompt_bytes": answer.nbytes if isinstance(answer, PromptReady) else None,
            "prompt_refused": answer.reason if isinstance(answer, PromptRefused) else "",
        }

    async def _refresh(self) -> None:
        try:
            if await asyncio.to_thread(self._folder.refresh):
                self._send_all(self._prompts.want(self._folder.state.prompts))
        except Exception:  # the root of this task
            log.exception("the personas stay as they were")

    def _send_all(self, messages: Sequence[PromptMessage]) -> None:
        for message in messages:
            self._send(message)
        if self._prompts.settled:
            self._settled.set()

    def _file(self, persona: str) -> str:
        return self._folder.state.files.get(persona, persona)


def _name(persona: Persona) -> str:
    """Return a persona's name, "" for Moshi as its weights are."""
    return "" if persona is NOBODY else persona.name
