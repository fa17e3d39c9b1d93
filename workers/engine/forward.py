"""One step as a pure function: what the first rows read, their chances and their rings in; their tokens out."""

from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx

from workers.engine.kv_cache import Ring
from workers.engine.model import TEXT, Model
from workers.engine.sampling import Manner, discourage, pick
from workers.messages import CODEBOOKS

READ = 1 + 2 * CODEBOOKS
"""Tokens read in a step: text, own codes, the caller's codes."""

Layers = list[mx.array]


class Forward:
    """The step over one set of weights; call it with arrays of `rows` rows and the rings of all slots."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(
        self,
        tokens: mx.array,
        draws: mx.array,
        knobs: mx.array,
        keys: Layers,
        values: Layers,
        size: int,
        manner: Manner,
    ) -> tuple[mx.array, Layers, Layers]:
        """Return (rows, 10), the text token, eight codes and whether all was finite, and the rings after the step.

        `tokens` is (rows, 17 + 1 + 30): read, position, said lately; `draws` (rows, 9) chances; `knobs` (rows, 6) the
        fields of `Sampling`. `size` and `manner` fix the graph.
        """
        memory = Ring(list(keys), list(values))
        position, said = tokens[:, READ], tokens[:, READ + 1 :]
        text_heat, text_top_k, audio_heat, audio_top_k, penalty, bias = mx.split(knobs, 6, axis=1)
        chances = mx.split(draws, 1 + CODEBOOKS, axis=1)
        sums: list[mx.array] = []

        def draw(codebook: int, logits: mx.array) -> mx.array:
            logits = logits.astype(mx.float32)
            sums.append(logits.sum(axis=-1, keepdims=True))
            if codebook != TEXT:
                return pick(logits, chances[codebook + 1], audio_heat, audio_top_k, manner.most_audio, manner)
            if not manner.plain:
                logits = discourage(logits, said, penalty, bias)
            return pick(logits, chances[0], text_heat, text_top_k, manner.most_text, manner)

        x = self._model.transform(self._model.embed(tokens[:, :READ]), position, memory, size)
        spoken = self._model.speak(x, draw)
        finite = mx.isfinite(mx.concatenate(sums, axis=1).sum(axis=1, keepdims=True))
        return mx.concatenate([spoken, finite.astype(mx.int32)], axis=1), memory.keys, memory.values


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled where that is possible (twice as fast at one row), else as it is."""
    return mx.compile(function) if can_compile() else function


@cache
def can_compile() -> bool:
    """Try it: on Linux `mx.compile` for the CPU calls a C++ compiler, which may not be there."""
    try:
        mx.eval(mx.compile(lambda x: mx.exp(x) * x + 1)(mx.ones(3)))
    except RuntimeError:
        return False
    return True
