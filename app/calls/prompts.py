"""Which prompt the calls of each persona begin with. The engine computes a prompt first, and may refuse it.

Messages in, messages out, no I/O. A prompt is known by its key, which is a digest of what it is made from. Each time
that the pipeline is ready all prompts are sent to it; `settled` once each of them is ready or refused. When a persona
changes while calls are on, its former prompt serves until the new one is ready. A prompt that no persona wants is
dropped as soon as the engine has answered.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from workers.messages import DropPrompt, PreparePrompt, PromptReady, PromptRefused

FORMER_KEPT = 64
PromptAnswer = PromptReady | PromptRefused
MOST_PROMPT = 4_000
"""Characters; 500 tokens, the model's limit, are about 2,000 characters of English."""


class PromptRejected(ValueError):
    """The engine or its checkpoint refuses a prompt; the message is one line."""


class PromptUnavailable(Exception):
    """A prompt cannot be prepared now; the message is one line."""


def clean_prompt(text: str) -> str:
    """Return a text without control characters and lone surrogates. Raises PromptRejected."""
    clean = "".join(one for one in text if one.isprintable() or one.isspace()).strip()
    if not clean:
        raise PromptRejected("the text is empty")
    if len(clean) > MOST_PROMPT:
        raise PromptRejected(f"the text has {len(clean):,} characters, more than {MOST_PROMPT:,}")
    return clean


class Refusal(NamedTuple):
    """Why a persona's prompt is refused; `key` is that of the former one, which serves, "" for none."""

    persona: str
    reason: str
    key: str


class Prompts:
    def __init__(self) -> None:
        self._wanted: dict[str, PreparePrompt] = {}
        self._answers: dict[str, PromptAnswer | None] = {}
        """By key; None while the engine computes it."""
        self._serving: dict[str, str] = {}
        """The newest key of each persona that is ready."""
        self._former: dict[str, PreparePrompt] = {}
        """The last ones that have been sent, by key: calls that began with them may go on for long."""
        self._awaited: set[str] = set()
        """Keys for which calls wait since the pipeline was started."""
        self._is_on = False

    @property
    def settled(self) -> bool:
        """Whether calls can begin with the prompts that there are."""
        return self._is_on and not self._awaited

    @property
    def refusals(self) -> list[Refusal]:
        """The personas whose newest prompt is refused."""
        answers = {name: self._answers.get(prompt.key) for name, prompt in self._wanted.items()}
        return [
            Refusal(name, answer.reason, self.key(name))
            for name, answer in answers.items()
            if isinstance(answer, PromptRefused)
        ]

    def key(self, persona: str) -> str:
        """Return the key of the prompt that calls of a persona begin with, "" for none."""
        return self._serving.get(persona, "")

    def former(self, key: str) -> PreparePrompt | None:
        """Return a prompt that has been sent and that no persona wants any more, None for any other."""
        return None if key in self._keys() else self._former.get(key)

    def answer(self, persona: str) -> PromptAnswer | None:
        """Return the engine's answer to the newest prompt of a persona, None if there is none."""
        prompt = self._wanted.get(persona)
        return self._answers.get(prompt.key) if prompt else None

    def on_pipeline_ready(self) -> Sequence[PreparePrompt]:
        """Return what to send to a pipeline that has just been started."""
        self.on_pipeline_lost()
        self._is_on = True
        prepare = self._prepare()
        self._awaited = {prompt.key for prompt in prepare}
        return prepare

    def on_pipeline_lost(self) -> None:
        self._is_on = False
        for known in (self._answers, self._serving, self._awaited):
            known.clear()

    def want(self, prompts: Mapping[str, PreparePrompt]) -> Sequence[PreparePrompt | DropPrompt]:
        """Handle the prompts that there are now, by the names of their personas; return what to send."""
        self._wanted = dict(prompts)
        if not self._is_on:
            return []
        prepare = self._prepare()
        if self._awaited:
            self._awaited = {key for key in self._keys() if self._answers[key] is None}
        return [*prepare, *self._update()]

    def on_answer(self, answer: PromptAnswer) -> Sequence[DropPrompt]:
        """Handle an answer of the engine; return what to send."""
        if answer.key not in self._answers:
            return []
        self._answers[answer.key] = answer
        self._awaited.discard(answer.key)
        return self._update()

    def _keys(self) -> set[str]:
        return {prompt.key for prompt in self._wanted.values()}

    def _prepare(self) -> list[PreparePrompt]:
        new = {prompt.key: prompt for prompt in self._wanted.values() if prompt.key not in self._answers}
        self._answers.update(dict.fromkeys(new))
        self._former |= new
        for key in [*self._former][:-FORMER_KEPT]:
            del self._former[key]
        return list(new.values())

    def _update(self) -> list[DropPrompt]:
        """Let each persona's newest prompt serve once it is ready; return those to drop."""
        ready = {key for key, answer in self._answers.items() if isinstance(answer, PromptReady)}
        self._serving = {name: key for name, key in self._serving.items() if name in self._wanted and key in ready}
        for name, prompt in self._wanted.items():
            if prompt.key in ready:
                self._serving[name] = prompt.key
        used = self._keys().union(self._serving.values())
        unused = [key for key, answer in self._answers.items() if answer and key not in used]
        for key in unused:
            del self._answers[key]
        return [DropPrompt(key) for key in unused if key in ready]
