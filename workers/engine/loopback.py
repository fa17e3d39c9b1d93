"""The line test's engine: the caller's frame comes back in its own step, and there is no text."""

import time
from collections.abc import Mapping

from workers.engine.streams import TEXT_PADDING, StepResult
from workers.messages import CodeArray, Slot


class LoopbackEngine:
    """Any number of slots, no state; a step takes `step_s`, as that of a slow model would."""

    keep_alive_s = None

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s

    def keep_alive(self) -> None: ...

    def open(self, slot: Slot, seed: int | None = None) -> None: ...

    def close(self, slot: Slot) -> None: ...

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, StepResult]:
        if codes and self._step_s:
            time.sleep(self._step_s)
        return {slot: StepResult(TEXT_PADDING, frame) for slot, frame in codes.items()}
