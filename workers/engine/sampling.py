"""Sampling: settings and random numbers of each call on the host, one token a row on the device.

A row samples from the `top_k` most likely tokens of softmax(logits / temperature) by inverting the cumulative
distribution: one uniform number a token. The uniforms are made on the host by a generator of each row's own: a seeded
call does not depend on its neighbours, and the step stays a pure function that `mx.compile` can keep. Temperature 0
takes the most likely token.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.messages import CODEBOOKS, Slot

PENALTY_TOKENS = 30
"""How many text tokens the repetition penalty looks back on, padding left out."""
LOWEST_TEMPERATURE = 1e-6
"""Lower temperatures are the same as 0."""


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
        if min(self.text_temperature, self.audio_temperature) < 0:
            raise ValueError("a temperature is 0 or more")
        if min(self.text_top_k, self.audio_top_k) < 1:
            raise ValueError("top_k is 1 or more")
        if self.repetition_penalty <= 0:
            raise ValueError("the repetition penalty is more than 0 (1 is off)")


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
        self._generators = [np.random.default_rng() for _ in range(slots)]
        self._text_count = [0] * slots
        self.recent_text = np.full((slots, PENALTY_TOKENS), TEXT_PADDING, np.int32)
        self._refresh()

    def open(self, slot: Slot, seed: int | None, sampling: SamplingSettings) -> None:
        """Begin a call with these settings. Raises ValueError for a top_k above that of the default."""
        if sampling.text_top_k > self._default.text_top_k or sampling.audio_top_k > self._default.audio_top_k:
            raise ValueError("a call's top_k is at most that of the engine's default")
        self._settings[slot] = astuple(sampling)
        self._generators[slot] = np.random.default_rng(seed)
        self._text_count[slot] = 0
        self.recent_text[slot] = TEXT_PADDING
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

    def _refresh(self) -> None:
        self.settings = mx.array(self._settings)
        """Shape (slots, 6), in the order of the fields of `SamplingSettings`."""
        text_temperature, text_top_k, audio_temperature, audio_top_k, penalty, bias = self._settings.T
        temperatures = np.concatenate([text_temperature, audio_temperature])
        self.branches = SamplingBranches(
            self._default.text_top_k,
            self._default.audio_top_k,
            any_greedy=not temperatures.all(),
            any_sampled=bool(temperatures.any()),
            mixed_top_k=bool(np.ptp(text_top_k) or np.ptp(audio_top_k)),
            penalizes=bool((penalty != 1).any() or bias.any()),
        )


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
