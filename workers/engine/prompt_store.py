"""The prompts that are kept, within a limit of memory: those used least recently go first."""

from collections import OrderedDict

from workers.engine.prefix import Prefix


class PromptStore:
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
