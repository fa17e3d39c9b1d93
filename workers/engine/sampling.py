"""Draws one token a row of the batch, each row with sampling settings of its own.

A row samples from the `top_k` most likely tokens of softmax(logits / temperature) by inverting the cumulative
distribution: one uniform number a token. The uniforms are made on the host by a generator of each row's own: a seeded
call does not depend on its neighbours, and the step stays a pure function that `mx.compile` can keep. Temperature 0
takes the most likely token.
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from workers.engine.streams import TEXT_PADDING

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


def sample(
    logits: mx.array, uniform: mx.array, temperature: mx.array, top_k: mx.array, limit: int, branches: SamplingBranches
) -> mx.array:
    """Return one token a row, (rows, 1) int32.

    `logits` (rows, vocabulary) float32; `uniform` in [0, 1), `temperature` and `top_k` are (rows, 1), no top_k above
    `limit`.
    """
    if not branches.any_sampled:
        return mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32)
    others = max(logits.shape[-1] - limit, 0)
    order = mx.argpartition(logits, kth=others, axis=-1)[:, others:]
    top = mx.take_along_axis(logits, order, axis=-1)
    weight = mx.exp((top - top.max(axis=-1, keepdims=True)) / mx.maximum(temperature, LOWEST_TEMPERATURE))
    if branches.mixed_top_k:
        kept = mx.maximum(top.shape[-1] - top_k, 0).astype(mx.int32)
        weight = mx.where(top >= mx.take_along_axis(mx.sort(top, axis=-1), kept, axis=-1), weight, 0)
    sums = mx.cumsum(weight, axis=-1)
    drawn = mx.argmax(sums > uniform * sums[:, -1:], axis=-1, keepdims=True)
    token = mx.take_along_axis(order, drawn, axis=-1).astype(mx.int32)
    if not branches.any_greedy:
        return token
    return mx.where(temperature > 0, token, mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32))


def penalize(logits: mx.array, recent_text: mx.array, penalty: mx.array, padding_bias: mx.array) -> mx.array:
    """Return text logits (rows, vocabulary) with the repetition penalty and the padding bias, both (rows, 1), applied.

    `recent_text` (rows, 30) are text tokens, unused places filled with the padding token. The rule is that of CTRL
    (arXiv 1909.05858): divide positive scores, multiply the others.
    """
    score = mx.take_along_axis(logits, recent_text, axis=-1)
    penalized = mx.where(score > 0, score / penalty, score * penalty)
    score = mx.where(recent_text == TEXT_PADDING, score, penalized)
    logits = mx.put_along_axis(logits, recent_text, score, axis=-1)
    padding = logits[:, TEXT_PADDING : TEXT_PADDING + 1] + padding_bias
    return mx.concatenate([logits[:, :TEXT_PADDING], padding, logits[:, TEXT_PADDING + 1 :]], axis=-1)
