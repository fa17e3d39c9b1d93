"""When a batch is worth computing: all live calls are there, or the first of them has waited long enough.

Theory. A call's frames come 80 ms apart, so it is known when the next one is due. To wait for it is worth while only as
long as a second step for it alone would take, and there is room for one step of all calls in 80 ms: that bounds the
patience. A call's first frame may come at any moment and has no claim yet: rather than begin a step that would make the
others late, it waits for them and is in step from then on.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from workers.messages import FRAME_S, Slot

LIVE_S = 0.2
"""A call whose last frame is older than this is not waited for."""
EARLY_S = 0.01
"""A frame may come so much before it is due."""
SPARE_S = 0.005
"""What is left of 80 ms at least, when all calls have been waited for and computed."""
STEPS_WORTH = 2
NEWS = 0.1
"""How much each step counts in what a step is taken to need."""


@dataclass(slots=True)
class _Rhythm:
    """When a call's newest frame came, and whether it was its first."""

    came_s: float
    first: bool


class BatchScheduler:
    """Keeps in mind when each call's newest frame came; `patience_s` is the longest that a frame waits for others.

    What `step_took` is told shortens it: a quick step is soon repeated, a long one leaves no time to wait.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = patience_s
        self._clock = clock
        self._step_s: float | None = None
        self._rhythms: dict[Slot, _Rhythm] = {}

    @property
    def patience_s(self) -> float:
        """How long a frame waits for those of other calls."""
        if self._step_s is None:
            return self._longest_s
        return min(self._longest_s, STEPS_WORTH * self._step_s, max(0.0, FRAME_S - SPARE_S - self._step_s))

    def frame_arrived(self, slot: Slot, came_s: float | None = None) -> None:
        """A frame of this call has come, just now or at `came_s`."""
        self._rhythms[slot] = _Rhythm(self._clock() if came_s is None else came_s, slot not in self._rhythms)

    def call_ended(self, slot: Slot) -> None:
        """The call is over."""
        self._rhythms.pop(slot, None)

    def step_took(self, step_s: float) -> None:
        """A step has taken so long."""
        before_s = step_s if self._step_s is None else self._step_s
        self._step_s = before_s + NEWS * (step_s - before_s)

    def due_s(self, waiting: Collection[Slot]) -> float | None:
        """Return when to compute a batch of the calls `waiting`: 0 for at once, None for nothing to do."""
        if not waiting:
            return None
        until_s = min(self._until_s(self._rhythms[slot]) for slot in waiting)
        first_s = min(self._rhythms[slot].came_s for slot in waiting)
        others_s = [rhythm.came_s for slot, rhythm in self._rhythms.items() if slot not in waiting]
        missing = any(first_s - came_s < LIVE_S and came_s + FRAME_S - EARLY_S <= until_s for came_s in others_s)
        return until_s if missing else 0.0

    def gap_s(self) -> float:
        """Return from when on a step would be over before the next frame of any live call comes; 0 for at once."""
        now = self._clock()
        begins_s = now
        for due_s in sorted(rhythm.came_s + FRAME_S for rhythm in self._rhythms.values()):
            if begins_s < due_s < begins_s + (self._step_s or 0.0):
                begins_s = due_s
        return 0.0 if begins_s == now else begins_s

    def _until_s(self, rhythm: _Rhythm) -> float:
        held_s = (self._step_s or 0.0) if rhythm.first else 0.0
        return rhythm.came_s + max(self.patience_s, held_s)
