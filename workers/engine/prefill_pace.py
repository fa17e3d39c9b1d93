"""How many positions of a prompt to compute at a time, from what that took before: no I/O and no clock.

A pass over few positions reads all weights once, as a step of the batch does, so twice as many positions take at most
twice as long.
"""

from collections import deque
from collections.abc import Mapping
from statistics import median_low

CHUNKS = tuple(1 << n for n in range(8))
"""Positions of a pass, 1 to 128: enough to keep the products busy."""
REMEMBERED = 5
"""Passes of one size whose median counts, so that a single stall does not."""


class PrefillPace:
    """What passes take; `measured_s` says it of some numbers of positions."""

    def __init__(self, measured_s: Mapping[int, float]) -> None:
        self._took_s: dict[int, deque[float]] = {}
        for positions, seconds in measured_s.items():
            self.took(positions, seconds)

    def took(self, positions: int, seconds: float) -> None:
        """A pass over so many positions has taken so long."""
        size = max(size for size in CHUNKS if size <= positions)
        self._took_s.setdefault(size, deque(maxlen=REMEMBERED)).append(seconds)

    def chunk(self, free_s: float) -> int:
        """Return how many positions fit into `free_s`, 0 if none does or nothing is known."""
        return max((size for size in CHUNKS if self._expected_s(size) <= free_s), default=0)

    def _expected_s(self, size: int) -> float:
        """Return the median for this size, or the least that those of others allow."""
        if size in self._took_s:
            return median_low(self._took_s[size])
        known = {known: median_low(times) for known, times in self._took_s.items()}
        return min((took_s * max(1, size // at) for at, took_s in known.items()), default=float("inf"))
