"""Engines without a model: the line test's, and one for tests whose tokens prove what it remembers."""

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from workers.engine.delay_pattern import TEXT_PADDING, LogArray, StepResult, parse_log, serialize_log
from workers.engine.steering import Force, Word
from workers.messages import CODEBOOKS, STEP_TOKENS, CodeArray, Payload, SamplingChanges, Slot

HASH_CHECKPOINT = "synthetic:hash"
"""With the loopback engine and codec: `HashEngine`. For tests, which set MOSHI_CHECKPOINT to it; no user needs it."""
HASHED_TOKENS = 1 + CODEBOOKS
TOKEN_BITS = 2_047


class LoopbackEngine:
    """The line test's engine: the caller's frame comes back in its own step, which takes `step_s`, without text.

    It remembers nothing, and whatever log is resumed is a good one.
    """

    keep_alive_s: float | None = None
    context = 0
    cold: Sequence[object] = ()

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s

    def keep_alive(self) -> None: ...
    def warm_next(self) -> None: ...

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None: ...

    def close(self, slot: Slot) -> None: ...

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force]) -> dict[Slot, StepResult]:
        if self._step_s:
            time.sleep(self._step_s)
        return {slot: self._result(slot, frame) for slot, frame in codes.items()}

    def read_log(self, log: bytes) -> LogArray:
        return np.zeros((0, STEP_TOKENS), np.int32)

    def own_frames(self, log: LogArray) -> None:
        """Return nothing: what was heard is not in the log."""

    def leave_out(self, slot: Slot, steps: LogArray, skipped: int = 0) -> None: ...

    def prefill(self, slot: Slot, log: LogArray) -> bool:
        return True

    def _result(self, slot: Slot, frame: Payload) -> StepResult:
        return StepResult(TEXT_PADDING, frame)


class HashEngine(LoopbackEngine):
    """A loopback engine that logs tokens: those that Moshi would sample are a hash of all that the call had before.

    In each step the text token and Moshi's eight codes are the first nine 16-bit words of the BLAKE2b of the log so
    far, in its own format, less the upper five bits of each; the caller's eight are such words of the BLAKE2b of their
    frame. So a step that is lost, changed or left out is seen in every step that follows.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        super().__init__(step_s)
        self._logs: dict[Slot, Any] = {}

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None:
        self._logs[slot] = blake2b()

    def read_log(self, log: bytes) -> LogArray:
        return parse_log(log)

    def prefill(self, slot: Slot, log: LogArray) -> bool:
        self._logs[slot].update(serialize_log(log))
        return True

    def _result(self, slot: Slot, frame: Payload) -> StepResult:
        said, heard = _tokens(self._logs[slot])[:HASHED_TOKENS], _tokens(blake2b(frame.tobytes()))[:CODEBOOKS]
        log = np.concatenate([said, heard])
        self.prefill(slot, log)
        return StepResult(int(said[0]), frame, log)


class HashWords:
    """The text of a hashed token: three hexadecimal digits and a space."""

    def decoder(self) -> Callable[[int], str]:
        return lambda token: f"{token:03x} "

    def words(self, text: str) -> Sequence[Word]:
        """Return none: what is to be said is over at once."""
        return []


def _tokens(hashed: Any) -> LogArray:
    return np.frombuffer(hashed.digest(), "<u2").astype(np.int32) & TOKEN_BITS
