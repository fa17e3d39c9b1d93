"""How many positions of a prompt to compute at a time, from what that took before: no I/O and no clock.

A pass over few positions reads all weights once, as a step of the batch does, so twice as many positions take at most
twice as long.
"""

from collections import deque
from statistics import median_low

CHUNKS = tuple(1 << n for n in range(8))
"""Positions of a pass, 1 to 128: enough to keep the products busy."""
REMEMBERED = 5
"""Passes of one size whose median counts, so that a single stall does not."""
FIRST_PASS_STEPS = 2
"""Steps of the batch that a pass over one position takes at most."""


class PrefillPace:
    def __init__(self) -> None:
        self._took_s: dict[int, deque[float]] = {}

    def took(self, positions: int, seconds: float) -> None:
        """A pass over so many positions has taken so long."""
        size = max(size for size in CHUNKS if size <= positions)
        self._took_s.setdefault(size, deque(maxlen=REMEMBERED)).append(seconds)

    def chunk(self, free_s: float, step_s: float | None) -> int:
        """Return how many positions fit into `free_s`, 0 if none does; a step of the batch takes `step_s`."""
        return max((size for size in CHUNKS if self._expected_s(size, step_s) <= free_s), default=0)

    def _expected_s(self, size: int, step_s: float | None) -> float:
        """Return the least of all upper bounds."""
        if size in self._took_s:
            return median_low(self._took_s[size])
        first_s = [] if step_s is None else [FIRST_PASS_STEPS * step_s * size]
        known = {known: median_low(times) for known, times in self._took_s.items()}
        return min([*first_s, *(took_s * max(1, size // at) for at, took_s in known.items())], default=float("inf"))
