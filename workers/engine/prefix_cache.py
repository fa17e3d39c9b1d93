"""A prompt as keys and values of its own, computed once and copied into each slot whose call begins with it.

Prefixes are kept within a limit of memory: those used least recently go first.
"""

from collections import OrderedDict
from dataclasses import dataclass

import mlx.core as mx

from workers.engine.delay_pattern import Beginning
from workers.engine.kv_cache import KVCache
from workers.engine.model import Model
from workers.engine.prompt import AGENT_SILENCE, USER_SINE, Prompt, PromptError


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


class PrefixCache:
    """Prefixes by key, `most_bytes` of them at most."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._prefixes.values())

    @property
    def keys(self) -> list[str]:
        """In the order in which they would be evicted."""
        return list(self._prefixes)

    def reserve(self, nbytes: int) -> bool:
        """Evict until so many bytes are free; return False, with nothing evicted, when they never can be."""
        if nbytes > self.most_bytes:
            return False
        while self.nbytes + nbytes > self.most_bytes:
            self._prefixes.popitem(last=False)
        return True

    def add(self, key: str, prefix: Prefix) -> None:
        """Keep a prefix, for which room must be reserved."""
        self._prefixes[key] = prefix
        self._prefixes.move_to_end(key)

    def get(self, key: str) -> Prefix | None:
        """Return a prefix, which counts as used now."""
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
        return self._prefixes.get(key)

    def drop(self, key: str) -> None:
        self._prefixes.pop(key, None)
