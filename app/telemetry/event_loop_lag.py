"""How late the event loop runs its timers: whatever occupies it too long delays every call."""

import asyncio
import time
from collections import deque
from itertools import islice

import numpy as np

from workers.histogram import Histogram

MEASURE_EVERY_S = 0.25
KEPT = 2_400
"""Ten minutes."""
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.5, 1.0)


class EventLoopLag:
    """The lags of the last ten minutes, and a histogram of all."""

    def __init__(self) -> None:
        self._lags_s: deque[float] = deque(maxlen=KEPT)
        self.histogram = Histogram(BOUNDS_S)

    async def watch(self) -> None:
        while True:
            due_s = time.monotonic() + MEASURE_EVERY_S
            await asyncio.sleep(MEASURE_EVERY_S)
            self.add(time.monotonic() - due_s)

    def add(self, lag_s: float) -> None:
        self._lags_s.append(lag_s)
        self.histogram.add(lag_s)

    def worst_s(self, last_s: float) -> float:
        return max(islice(reversed(self._lags_s), max(1, round(last_s / MEASURE_EVERY_S))), default=0.0)

    def as_json(self) -> dict[str, float]:
        """Return percentiles of the last ten minutes, in milliseconds."""
        lags_ms = np.array(self._lags_s or [0.0]) * 1000
        return {f"p{percent}_ms": round(float(np.percentile(lags_ms, percent)), 2) for percent in (50, 99, 100)}
