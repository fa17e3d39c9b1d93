"""When a batch is worth computing: all live calls are there, or the first of them has waited long enough.

Who has just had his turn is not waited for: his next frame comes 80 ms after the last.
"""

import time
from collections.abc import Callable, Collection

from workers.messages import FRAME_S, Slot

LIVE_S = 0.2
"""A call whose last frame is older than this is not waited for."""
EARLIEST_S = FRAME_S - 0.02
"""A frame may come so soon after the one before it."""


class Beat:
    """Keeps in mind when each call's newest frame came; `patience_s` is the longest that a frame waits for others."""

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._arrived_s: dict[Slot, float] = {}

    def note(self, slot: Slot) -> None:
        """A frame of this call has come."""
        self._arrived_s[slot] = self._clock()

    def forget(self, slot: Slot) -> None:
        """The call is over."""
        self._arrived_s.pop(slot, None)

    def due_s(self, waiting: Collection[Slot]) -> float | None:
        """Return when to compute a batch of the calls `waiting`: 0 for at once, None for nothing to do."""
        if not waiting:
            return None
        first_s = min(self._arrived_s[slot] for slot in waiting)
        until_s = first_s + self._patience_s
        others_s = [arrived_s for slot, arrived_s in self._arrived_s.items() if slot not in waiting]
        missing = any(first_s - arrived_s < LIVE_S and arrived_s + EARLIEST_S <= until_s for arrived_s in others_s)
        return until_s if missing else 0.0
