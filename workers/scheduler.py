"""Decides when a batch runs: once every live call has a frame, or the first of them has waited long enough.

A call's frames come 80 ms apart, so it is known when the next one is due. Waiting for it pays only as long as a second
step for it alone would take, and one step of all calls must fit into 80 ms: both limit the patience. A call's first
frame may come at any moment: rather than begin a step that would make the others late, it waits for them and is in
phase with them from then on.
"""

import time
from collections.abc import Callable, Collection

from workers.messages import FRAME_S, Slot

LIVE_S = 0.2
"""A call whose last frame is older than this is not waited for."""
EARLY_S = 0.01
"""How much earlier than due a frame may come."""
SPARE_S = 0.005
"""What is left of 80 ms at least after waiting for all calls and computing them."""
PATIENCE_STEPS = 2
STEP_EMA_WEIGHT = 0.1
"""Weight of each new step in the moving average of step times."""


class BatchScheduler:
    """Knows when each call's newest frame came; `patience_s` is the longest that a frame waits for others.

    `step_took` shortens it: a short step is cheap to repeat, a long one leaves no time to wait.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = patience_s
        self._clock = clock
        self._step_s: float | None = None
        self._arrived_s: dict[Slot, float] = {}
        """When each call's newest frame came."""
        self._first: set[Slot] = set()
        """Calls whose newest frame is their first."""

    @property
    def patience_s(self) -> float:
        """How long a frame waits for those of other calls."""
        if self._step_s is None:
            return self._longest_s
        return min(self._longest_s, PATIENCE_STEPS * self._step_s, max(0.0, FRAME_S - SPARE_S - self._step_s))

    def frame_arrived(self, slot: Slot, at_s: float | None = None) -> None:
        """A frame of this call has come, just now or at `at_s`."""
        (self._first.discard if slot in self._arrived_s else self._first.add)(slot)
        self._arrived_s[slot] = self._clock() if at_s is None else at_s

    def call_ended(self, slot: Slot) -> None:
        self._arrived_s.pop(slot, None)

    def step_took(self, step_s: float) -> None:
        before_s = step_s if self._step_s is None else self._step_s
        self._step_s = before_s + STEP_EMA_WEIGHT * (step_s - before_s)

    def due_s(self, waiting: Collection[Slot]) -> float | None:
        """Return when to run a batch of the calls `waiting`: 0 for at once, None for nothing to do."""
        if not waiting:
            return None
        until_s = min(self._until_s(slot) for slot in waiting)
        first_s = min(self._arrived_s[slot] for slot in waiting)
        others_s = [at_s for slot, at_s in self._arrived_s.items() if slot not in waiting]
        missing = any(first_s - at_s < LIVE_S and at_s + FRAME_S - EARLY_S <= until_s for at_s in others_s)
        return until_s if missing else 0.0

    @property
    def any_live(self) -> bool:
        """Whether a call has sent a frame just lately."""
        return any(self._clock() - at_s < LIVE_S for at_s in self._arrived_s.values())

    def free_s(self) -> float:
        """Return how long no frame of a live call can come, from now on; a call that is late may send at any moment."""
        now = self._clock()
        live_s = (at_s for at_s in self._arrived_s.values() if now - at_s < LIVE_S)
        next_s = min((at_s + FRAME_S - EARLY_S - now for at_s in live_s), default=FRAME_S - SPARE_S)
        return max(0.0, next_s)

    def gap_s(self) -> float:
        """Return from when on a step would be over before the next frame of any live call comes; 0 for at once."""
        now = begins_s = self._clock()
        for at_s in sorted(self._arrived_s.values()):
            if begins_s < at_s + FRAME_S < begins_s + (self._step_s or 0.0):
                begins_s = at_s + FRAME_S
        return 0.0 if begins_s == now else begins_s

    def _until_s(self, slot: Slot) -> float:
        held_s = (self._step_s or 0.0) if slot in self._first else 0.0
        return self._arrived_s[slot] + max(self.patience_s, held_s)
