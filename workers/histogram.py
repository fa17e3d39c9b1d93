"""Counts of how often a value was how large, at next to no cost for each value."""

from bisect import bisect_left
from dataclasses import dataclass, field

FRAME_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.16, 0.32, 1.0)
"""Times of a frame's stages, in seconds; closest around the 80 ms in which the next frame comes."""
ROW_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(slots=True)
class Histogram:
    """`counts` of values up to each of `bounds`, which rise, and above the one before; the last counts the rest.

    `total` is the sum of all values.
    """

    bounds: tuple[float, ...] = FRAME_BOUNDS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value; one below 0, because clocks disagree, adds nothing to the sum."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += max(0.0, value)

    @property
    def count(self) -> int:
        return sum(self.counts)
