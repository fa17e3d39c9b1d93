"""An engine that samples text by a script and forces words by the rule, without a model; a vocabulary one can read."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np

from workers.engine.delay_pattern import StepResult
from workers.engine.loopback import LoopbackEngine
from workers.engine.row import Vocabulary
from workers.engine.stage import EngineStage
from workers.engine.steering import Force, ForceMode, WordPart
from workers.messages import CodeArray, SamplingChanges, Slot

PADDING, CONTINUATION, BEGINNING = 3, 1_000, 2_000
"""Padding; to the other two the character is added."""


class Letters:
    """A piece is one letter, which begins a word or goes on with one."""

    def decoder(self) -> Callable[[int], str]:
        return lambda token: _text_of(token)

    def words(self, text: str) -> list[list[int]]:
        return [[own(" " + word[0]), *map(own, word[1:])] for word in text.split()]


def own(text: str) -> int:
    """Return the token of a letter, of one that begins a word (" a"), or of padding ("")."""
    if not text:
        return PADDING
    return ord(text[-1]) + (BEGINNING if text[0] == " " else CONTINUATION)


def _text_of(token: int) -> str:
    if token < CONTINUATION:
        return ""
    return f" {chr(token - BEGINNING)}" if token >= BEGINNING else chr(token - CONTINUATION)


def _part_of(token: int) -> WordPart:
    if token < CONTINUATION:
        return WordPart.NONE
    return WordPart.BEGINNING if token >= BEGINNING else WordPart.CONTINUATION


def forced_text(force: Force, sampled: int, part: WordPart) -> int:
    """The rule of the modes, in words of its own."""
    match force.mode:
        case ForceMode.ALWAYS:
            return force.token
        case ForceMode.AT_WORD | ForceMode.AT_NEXT_WORD if part is WordPart.BEGINNING:
            return force.token
        case ForceMode.AT_NEXT_WORD | ForceMode.AFTER_WORD if part is WordPart.CONTINUATION:
            return PADDING
    return sampled


@dataclass
class SpeechBackend(LoopbackEngine):
    """Each call samples the text tokens of `samples` over and over; what it hears is noted."""

    samples: list[int] = field(default_factory=lambda: [PADDING, own(" x")])
    part_of: Callable[[int], WordPart] = _part_of
    now: float = 100.0
    heard: dict[Slot, list[int]] = field(default_factory=dict)
    sampled: dict[Slot, Iterator[int]] = field(default_factory=dict)
    sampling: dict[Slot, SamplingChanges] = field(default_factory=dict)
    faults: deque[str] = field(default_factory=deque)

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None:
        self.heard[slot], self.sampled[slot], self.sampling[slot] = [], cycle(self.samples), sampling

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force]) -> dict[Slot, StepResult]:
        fault = self.faults.popleft() if self.faults else ""
        return {slot: self._say(slot, frame, forced.get(slot), fault) for slot, frame in codes.items()}

    def _say(self, slot: Slot, frame: CodeArray, force: Force | None, fault: str) -> StepResult:
        self.heard[slot].append(int(frame[0]))
        sampled = next(self.sampled[slot])
        text = forced_text(force, sampled, self.part_of(sampled)) if force else sampled
        return StepResult(text, frame, np.zeros(17, np.int32), fault)


def stage_of(engine: SpeechBackend, vocabulary: Vocabulary | None) -> EngineStage:
    """Return a stage whose clock is that of the engine."""
    return EngineStage(engine, vocabulary, lambda: engine.now)
