"""Sampling: settings and random numbers of each call on the host, one token a row on the device.

A row samples from the `top_k` most likely tokens of softmax(logits / temperature) by inverting the cumulative
distribution: one uniform number a token. The uniforms are made on the host by a generator of each row's own: a seeded
call does not depend on its neighbours, and the step stays a pure function that `mx.compile` can keep. Temperature 0
takes the most likely token. Text that is to be said takes the place of the text token sampled (`force`).
"""

import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from math import inf
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.engine.delay_pattern import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.engine.steering import ForceMode, WordPart
from workers.messages import CODEBOOKS, SamplingChanges, Slot

log = logging.getLogger(__name__)
PENALTY_TOKENS = 30
"""How many text tokens the repetition penalty looks back on, padding left out."""
LOWEST_TEMPERATURE = 1e-6
"""Lower temperatures are the same as 0."""
_LARGEST = 1e6
"""No setting is larger."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How one call samples; the defaults are those of Kyutai's PyTorch server.

    `repetition_penalty` divides the score of the last 30 text tokens (1: off; 1.2 is the known cure for loops).
    `padding_bias` is added to the score of the padding token: above 0 Moshi is quieter, below 0 more talkative.
    """

    text_temperature: float = 0.7
    text_top_k: int = 25
    audio_temperature: float = 0.8
    audio_top_k: int = 250
    repetition_penalty: float = 1.0
    padding_bias: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= temperature < inf for temperature in (self.text_temperature, self.audio_temperature)):
            raise ValueError("a temperature is 0 or more, and finite")
        if min(self.text_top_k, self.audio_top_k) < 1:
            raise ValueError("top_k is 1 or more")
        if self.repetition_penalty <= 0:
            raise ValueError("the repetition penalty is more than 0 (1 is off)")


def call_settings(default: SamplingSettings, changes: SamplingChanges) -> SamplingSettings:
    """Return the settings of one call; never raises.

    A top_k above the default's, by which the graphs are made, becomes the default's; what means nothing is left out.
    Both are logged.
    """
    settings = default
    for name, value in changes:
        try:
            settings = replace(settings, **_change(default, name, value))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            log.warning("sampling: %s = %r is left out: %s", name, value, error)
    return settings


def _change(default: SamplingSettings, name: str, value: float) -> dict[str, float]:
    if name not in (field.name for field in fields(default)):
        raise ValueError("there is no such setting")
    if not abs(value) <= _LARGEST:
        raise ValueError("it is too large, or not a number")
    if not name.endswith("top_k"):
        return {name: value}
    if value > (limit := getattr(default, name)):
        log.warning("sampling: %s = %g is above that of all calls, %d, which is used", name, value, limit)
    return {name: min(int(value), limit)}


class SamplingBranches(NamedTuple):
    """What the rows of a step need together; it fixes the graph, which omits the branches that no row uses."""

    text_top_k_limit: int
    audio_top_k_limit: int
    any_greedy: bool
    any_sampled: bool
    mixed_top_k: bool
    penalizes: bool


class SamplerState:
    """Sampling settings, random number generator and recent text of each slot, on the host."""

    def __init__(self, slots: int, default: SamplingSettings) -> None:
        self._default = default
        self._settings = np.tile(np.array(astuple(default), np.float32), (slots, 1))
        self.all_branches = _all_branches(default)
        """What `branches` may be: while all calls sample by the default, and while one does not."""
        self._generators = [np.random.default_rng() for _ in range(slots)]
        self._text_count = [0] * slots
        self.recent_text = np.full((slots, PENALTY_TOKENS), TEXT_PADDING, np.int32)
        self._refresh()

    def open(self, slot: Slot, seed: int | None = None, changes: SamplingChanges = ()) -> None:
        """Begin a call that samples by the default but for these `changes`."""
        self._settings[slot] = astuple(call_settings(self._default, changes))
        self._generators[slot] = np.random.default_rng(seed)
        self._text_count[slot] = 0
        self.recent_text[slot] = TEXT_PADDING
        self._refresh()

    def close(self, slot: Slot) -> None:
        """End a call: its changes need no branches any more."""
        self._settings[slot] = astuple(self._default)
        self._refresh()

    def uniforms(self, rows: int, active: Iterable[Slot]) -> NDArray[np.float32]:
        """Return nine uniform numbers in [0, 1) a row, shape (rows, 9); only the active rows' generators advance."""
        uniforms = np.zeros((rows, 1 + CODEBOOKS), np.float32)
        for slot in active:
            self._generators[slot].random(dtype=np.float32, out=uniforms[slot])
        return uniforms

    def add_text(self, slot: Slot, token: int) -> None:
        """Store a text token for the repetition penalty; padding is left out."""
        if token not in (TEXT_END_OF_PADDING, TEXT_PADDING):
            self.recent_text[slot, self._text_count[slot] % PENALTY_TOKENS] = token
            self._text_count[slot] += 1

    def replay(self, slot: Slot, texts: NDArray[np.int32], skipped: int = 0) -> None:
        """Go on as after `skipped` steps and those that sampled these text tokens."""
        self._generators[slot].random((skipped + len(texts)) * (1 + CODEBOOKS), dtype=np.float32)
        words = texts[~np.isin(texts, (TEXT_END_OF_PADDING, TEXT_PADDING))]
        for token in words[-PENALTY_TOKENS:]:
            self.add_text(slot, int(token))

    def _refresh(self) -> None:
        self.settings = mx.array(self._settings)
        """Shape (slots, 6), in the order of the fields of `SamplingSettings`."""
        changed = (self._settings != np.array(astuple(self._default), np.float32)).any()
        self.branches = self.all_branches[int(changed)]


def _all_branches(default: SamplingSettings) -> tuple[SamplingBranches, SamplingBranches]:
    """Return what calls that sample by the default need, and what serves any mixture of calls: two sets of graphs.

    A row that samples by the default draws the same tokens in both.
    """
    temperatures = default.text_temperature, default.audio_temperature
    same = SamplingBranches(
        default.text_top_k,
        default.audio_top_k,
        any_greedy=not all(temperatures),
        any_sampled=any(temperatures),
        mixed_top_k=False,
        penalizes=default.repetition_penalty != 1 or default.padding_bias != 0,
    )
    return same, same._replace(any_greedy=True, any_sampled=True, mixed_top_k=True, penalizes=True)


def sample(
    logits: mx.array, uniform: mx.array, temperature: mx.array, top_k: mx.array, limit: int, branches: SamplingBranches
) -> mx.array:
    """Return one token a row, (rows, 1) int32.

    `logits` (rows, vocabulary) float32; `uniform` in [0, 1), `temperature` and `top_k` are (rows, 1), no top_k above
    `limit`.
    """
    most_likely = mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32)
    if not branches.any_sampled:
        return most_likely
    others = max(logits.shape[-1] - limit, 0)
    order = mx.argpartition(logits, kth=others, axis=-1)[:, others:]
    top = mx.take_along_axis(logits, order, axis=-1)
    weight = mx.exp((top - top.max(axis=-1, keepdims=True)) / mx.maximum(temperature, LOWEST_TEMPERATURE))
    if branches.mixed_top_k:
        allowed = mx.maximum(top.shape[-1] - top_k, 0).astype(mx.int32)
        weight = mx.where(top >= mx.take_along_axis(mx.sort(top, axis=-1), allowed, axis=-1), weight, 0)
    sums = mx.cumsum(weight, axis=-1)
    drawn = mx.argmax(sums > uniform * sums[:, -1:], axis=-1, keepdims=True)
    token = mx.take_along_axis(order, drawn, axis=-1).astype(mx.int32)
    return mx.where(temperature > 0, token, most_likely) if branches.any_greedy else token


def force(sampled: mx.array, token: mx.array, mode: mx.array, word_parts: mx.array) -> mx.array:
    """Return the text tokens after forcing; all (rows, 1) int32, `word_parts` (vocabulary,) the `WordPart` of each."""
    part = word_parts[sampled]
    at_word = ((mode == ForceMode.AT_WORD) | (mode == ForceMode.AT_NEXT_WORD)) & (part == WordPart.BEGINNING)
    added = ((mode == ForceMode.AT_NEXT_WORD) | (mode == ForceMode.AFTER_WORD)) & (part == WordPart.CONTINUATION)
    return mx.where((mode == ForceMode.ALWAYS) | at_word, token, mx.where(added, TEXT_PADDING, sampled))


def penalize(logits: mx.array, recent_text: mx.array, penalty: mx.array, padding_bias: mx.array) -> mx.array:
    """Return text logits (rows, vocabulary) with the repetition penalty and the padding bias, both (rows, 1), applied.

    `recent_text` (rows, 30) are text tokens, unused entries filled with the padding token. The rule is that of CTRL
    (arXiv 1909.05858): divide positive scores, multiply the others.
    """
    score = mx.take_along_axis(logits, recent_text, axis=-1)
    penalized = mx.where(score > 0, score / penalty, score * penalty)
    score = mx.where(recent_text == TEXT_PADDING, score, penalized)
    logits = mx.put_along_axis(logits, recent_text, score, axis=-1)
    padding = logits[:, TEXT_PADDING : TEXT_PADDING + 1] + padding_bias
    return mx.concatenate([logits[:, :TEXT_PADDING], padding, logits[:, TEXT_PADDING + 1 :]], axis=-1)
