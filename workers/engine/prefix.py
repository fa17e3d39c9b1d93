"""A prompt as keys and values of its own, computed once and copied into each slot whose call begins with it."""

from dataclasses import dataclass

import mlx.core as mx

from workers.engine.kv_cache import KVCache
from workers.engine.model import Model
from workers.engine.prompt import AGENT_SILENCE, USER_SINE, Prompt, PromptError
from workers.engine.streams import Beginning


@dataclass(frozen=True, slots=True)
class Prefix:
    """A computed prompt: `kv_cache` has one row of as many entries as it has positions."""

    kv_cache: KVCache
    beginning: Beginning

    @property
    def nbytes(self) -> int:
        return self.kv_cache.nbytes


class PromptPrefill:
    """The computation of one prompt, chunk by chunk; no slot takes part in it."""

    def __init__(self, model: Model, prompt: Prompt, kv_cache: KVCache) -> None:
        """Begin; `kv_cache` has one row of `prompt.positions` entries, which this takes over."""
        self._model, self._prompt, self._kv_cache = model, prompt, kv_cache
        self.done, self.total = 0, prompt.positions

    def advance(self, most: int) -> int:
        """Compute the next positions, at most so many; return how many. Raises PromptError."""
        inputs = self._prompt.inputs(self.done, most)
        if not self._model.prefill(mx.array(inputs), self.done, self._kv_cache, 0):
            raise PromptError("the model computes NaN or infinity from it")
        self.done += len(inputs)
        return len(inputs)

    @property
    def prefix(self) -> Prefix:
        """The result, once all is `done`."""
        return Prefix(self._kv_cache, Beginning(self.total, self._prompt.last, AGENT_SILENCE, USER_SINE))
