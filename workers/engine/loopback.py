"""The line test's engine: the caller's frame comes back in its own step, and there is no text."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from workers.messages import CodeArray, Slot


@dataclass(frozen=True, slots=True)
class LoopbackStep:
    """The frame that went in."""

    codes: CodeArray
    text_token: int = 3
    fault: str = ""
    log = None


class LoopbackEngine:
    """Any number of slots, no state; a step takes `step_s`, as that of a slow model would."""

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s

    keep_alive_s = None

    def keep_alive(self) -> None:
        """Nothing to keep awake."""

    def open(self, slot: Slot, seed: int | None = None) -> None:
        """Nothing to prepare."""

    def close(self, slot: Slot) -> None:
        """Nothing to forget."""

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, LoopbackStep]:
        if codes and self._step_s:
            time.sleep(self._step_s)
        return {slot: LoopbackStep(frame) for slot, frame in codes.items()}


class NoPieces:
    """No text."""

    def push(self, token: int) -> str:
        return ""
