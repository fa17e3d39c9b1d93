"""How long the event loop keeps others waiting: what runs too long on it is heard by every caller."""

import asyncio
import time
from collections import deque
from itertools import islice

import numpy as np

from workers.histogram import Histogram

LOOK_EVERY_S = 0.25
KEPT = 2_400
"""Ten minutes."""
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.5, 1.0)


class EventLoopLag:
    """Asks to be woken now and then, and notes how much later than that it was."""

    def __init__(self) -> None:
        self._lags_s: deque[float] = deque(maxlen=KEPT)
        self.histogram = Histogram(BOUNDS_S)
        """All lags since the start, in seconds."""

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            due_s = time.monotonic() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self.note(time.monotonic() - due_s)

    def note(self, lag_s: float) -> None:
        """Take one lag, in seconds."""
        self._lags_s.append(lag_s)
        self.histogram.add(lag_s)

    def worst_s(self, last_s: float) -> float:
        """Return the longest lag of the last seconds."""
        return max(islice(reversed(self._lags_s), max(1, round(last_s / LOOK_EVERY_S))), default=0.0)

    def as_json(self) -> dict[str, float]:
        """Return percentiles of the last ten minutes, in milliseconds."""
        lags_ms = np.array(self._lags_s or [0.0]) * 1000
        return {f"p{percent}_ms": round(float(np.percentile(lags_ms, percent)), 2) for percent in (50, 99, 100)}
