"""Forced text in the batched step against the official `LmGen` with a text sampler that follows the rule in words."""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest
from moshi_mlx.utils import Sampler

from tests.workers.engine.small import ARGMAX, Said, build, official, said, speech
from workers.engine.engine import Engine
from workers.engine.sampling import force
from workers.engine.steering import Steering, WordPart
from workers.messages import Slot

STEPS, TEXT_CARD = 70, 400
SLOTS = A, B, C, D = tuple(map(Slot, range(4)))
PARTS = [WordPart.NONE] * 4 + [WordPart(1 + token % 2) for token in range(4, TEXT_CARD)]
"""An odd token goes on with a word, an even one begins one."""
QUIET = [WordPart.NONE] * 4 + [WordPart.CONTINUATION] * (TEXT_CARD - 4)
GREETING = [[10, 11, 13], [12], [14, 15]]
SENTENCE = [[20], [22, 21]]


@dataclass
class Rule(Sampler):  # type: ignore[misc]
    """The most likely text token, or what takes its place: a plain reading of how words are forced."""

    temp: float = 0.0
    words: list[list[int]] = field(default_factory=list)
    parts: list[WordPart] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    """The other pieces of the word just begun."""
    waited: int = 0
    after_ours: bool = False
    """The last word is one of those wanted: the model must not add to it."""
    replaced: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        token, logprobs = super().__call__(logits)
        sampled = int(token.item())
        if (text := self._rule(sampled)) != sampled:
            self.replaced.append((sampled, text))
        return mx.array([text]).reshape(token.shape), logprobs

    def _rule(self, sampled: int) -> int:
        begins, continues = (self.parts[sampled] == part for part in (1, 2))
        if self.rest:
            return self.rest.pop(0)
        if self.words and (begins or self.waited == 13):
            first, *self.rest = self.words.pop(0)
            self.waited, self.after_ours = 0, True
            return first
        self.waited += 1
        if self.words and self.waited == 13:
            return 0
        if not self.words and (begins or self.waited > 12):
            self.after_ours = False
        return 3 if self.after_ours and continues else sampled


def expected(slot: Slot, steps: int, dtype: mx.Dtype, rule: Sampler) -> list[Said]:
    return official(build("tiny", dtype), speech(slot, steps + 1), rule)


def run(dtype: mx.Dtype, parts: list[WordPart], sentences: dict[Slot, list[list[int]]]) -> dict[Slot, list[Said]]:
    """Step all slots with `speech(slot)`; slot n joins at step n, and its words are forced from its first step."""
    engine = Engine(build("tiny", dtype), len(SLOTS), ARGMAX, context=128, word_parts=parts)
    steering = {slot: Steering() for slot in SLOTS}
    for slot, words in sentences.items():
        steering[slot].add(0, words)
    transcripts: dict[Slot, list[Said]] = {slot: [] for slot in SLOTS}
    for number in range(STEPS):
        live = [slot for slot in SLOTS if slot <= number]
        if number < len(SLOTS):
            engine.open(Slot(number))
        heard = {slot: speech(slot, STEPS)[number - slot] for slot in live}
        for slot, step in engine.step(heard, {slot: steering[slot].next() for slot in live}).items():
            transcripts[slot].append(said(step))
            steering[slot].advance(step.text_token)
    return transcripts


@pytest.mark.parametrize(
    ("dtype", "parts"),
    [
        (mx.float32, PARTS),
        pytest.param(mx.bfloat16, PARTS, marks=pytest.mark.slow),
        pytest.param(mx.float32, QUIET, marks=pytest.mark.slow),
    ],
    ids=["f32", "bf16", "begins no word"],
)
def test_forced_rows_say_what_the_official_model_says_by_the_rule_and_free_rows_are_unchanged(
    dtype: mx.Dtype, parts: list[WordPart]
) -> None:
    sentences = {A: GREETING, C: SENTENCE, D: SENTENCE + GREETING[:1]}
    transcripts = run(dtype, parts, sentences)
    for slot, transcript in transcripts.items():
        rule = Rule(words=[*sentences.get(slot, [])], parts=parts)
        assert transcript == expected(slot, len(transcript), dtype, rule), f"slot {slot}"
        assert not [*rule.words, *rule.rest], "all has been said"
        assert bool(rule.replaced) == (slot in sentences)
    assert transcripts[B] == expected(B, len(transcripts[B]), dtype, Sampler(temp=0.0))


def test_the_modes_of_forcing_token_by_token() -> None:
    """Rows: the modes; columns: padding, a piece that begins a word, one that goes on with one. Token 9 is forced."""
    sampled = [3, 4, 5]
    wanted = {0: [3, 4, 5], 1: [9, 9, 9], 2: [3, 9, 5], 3: [3, 9, 3], 4: [3, 4, 3]}
    for mode, texts in wanted.items():
        token, modes = (mx.array([[value]] * 3) for value in (9, mode))
        forced = force(mx.array(sampled)[:, None], token, modes, mx.array(PARTS))
        assert np.array(forced)[:, 0].tolist() == texts
