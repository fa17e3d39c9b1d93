"""One token out of many, each row of the batch by its own rules.

Theory. A row draws from the `top_k` most likely tokens of softmax(logits / temperature) by inverting the distribution
function: one uniform number a draw, looked up in the running sum of the probabilities. So a step needs nine numbers a
row, made on the host by a generator of the row's own: what a seeded call says does not depend on its neighbours, and
the step stays a pure function that `mx.compile` can keep. Temperature 0 takes the most likely token.
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from workers.engine.streams import TEXT_PADDING

MEMORY = 30
"""How many text tokens the repetition penalty looks back on, padding left out."""
COLDEST = 1e-6
"""Lower temperatures than this are the same as 0."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one call draws its tokens; the defaults are those of Kyutai's PyTorch server.

    Temperatures have no unit, 0 takes the most likely token. `repetition_penalty` divides the score of the last 30 text
    tokens (1 = off, 1.2 cures loops). `padding_bias` is added to the score of the padding token: above 0 Moshi is
    quieter, below 0 more talkative.
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


ARGMAX = Sampling(text_temperature=0.0, audio_temperature=0.0)


class Manner(NamedTuple):
    """What all rows together need of a step; it fixes the graph, so that nothing is computed for nobody.

    `most_text` and `most_audio` are how many tokens to draw from at most; `cold` is whether a row is at temperature 0,
    `warm` whether one is not; `uneven` whether rows differ in their top_k; `plain` whether text is taken as scored.
    """

    most_text: int
    most_audio: int
    cold: bool
    warm: bool
    uneven: bool
    plain: bool


def pick(
    logits: mx.array, draw: mx.array, temperature: mx.array, top_k: mx.array, most: int, manner: Manner
) -> mx.array:
    """Take one token a row.

    `logits` (rows, vocabulary) float32; `draw` (rows, 1) in [0, 1); `temperature` and `top_k` (rows, 1), no top_k above
    `most`. Returns (rows, 1) int32.
    """
    if not manner.warm:
        return mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32)
    others = max(logits.shape[-1] - most, 0)
    order = mx.argpartition(logits, kth=others, axis=-1)[:, others:]
    top = mx.take_along_axis(logits, order, axis=-1)
    weight = mx.exp((top - top.max(axis=-1, keepdims=True)) / mx.maximum(temperature, COLDEST))
    if manner.uneven:
        kept = mx.maximum(top.shape[-1] - top_k, 0).astype(mx.int32)
        weight = mx.where(top >= mx.take_along_axis(mx.sort(top, axis=-1), kept, axis=-1), weight, 0)
    sums = mx.cumsum(weight, axis=-1)
    place = mx.argmax(sums > draw * sums[:, -1:], axis=-1, keepdims=True)
    drawn = mx.take_along_axis(order, place, axis=-1).astype(mx.int32)
    if not manner.cold:
        return drawn
    return mx.where(temperature > 0, drawn, mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32))


def discourage(logits: mx.array, said: mx.array, penalty: mx.array, padding_bias: mx.array) -> mx.array:
    """Score down what was said lately, and padding up or down.

    `logits` (rows, vocabulary); `said` (rows, 30) text tokens, free places filled with the padding token; `penalty` and
    `padding_bias` (rows, 1). The rule is that of CTRL (arXiv 1909.05858): divide what is positive, multiply the rest.
    """
    score = mx.take_along_axis(logits, said, axis=-1)
    heard = mx.where(score > 0, score / penalty, score * penalty)
    score = mx.where(said == TEXT_PADDING, score, heard)
    logits = mx.put_along_axis(logits, said, score, axis=-1)
    padding = logits[:, TEXT_PADDING : TEXT_PADDING + 1] + padding_bias
    return mx.concatenate([logits[:, :TEXT_PADDING], padding, logits[:, TEXT_PADDING + 1 :]], axis=-1)
