"""One step of many rows as a pure function of fixed shapes, over moshi_mlx's modules.

This is `moshi_mlx.models.Lm._sample` with the state taken out: tokens, uniforms and KV caches come in as arguments, so
that `mx.compile` can keep the step. Each row has its own position. Throughout, x is (rows, dim).
"""

from collections.abc import Callable

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.engine.backbone import Backbone, Layers
from workers.engine.kv_cache import KVCache
from workers.engine.sampling import SamplingBranches, force, penalize, sample
from workers.engine.weights import StepLayer, join, product, table
from workers.messages import CODEBOOKS, STEP_TOKENS

_TEXT = -1
_PARTS = [STEP_TOKENS, STEP_TOKENS + 1, STEP_TOKENS + 3]
"""Where the parts of the `tokens` of a step end, but for the last."""
_Sample = Callable[[int, mx.array], mx.array]
"""Takes _TEXT or a codebook 0..7 and its logits (rows, vocabulary); returns one token a row, (rows, 1) int32."""


class Model(Backbone):
    """The weights of a loaded `Lm`, whose modules it takes over; the `Lm`'s own caches stay unused."""

    def __init__(self, lm: Lm, word_parts: mx.array) -> None:
        """`word_parts` (text vocabulary,) int32 says what each text token is to a word: see `sampling.force`."""
        super().__init__(lm)
        self._word_parts = word_parts
        slices = lm.depformer.slices
        self._depformer_in = product(join([part.linear_in for part in slices]))
        self._depformer_tables = [table(part.emb) for part in slices]
        self._depformer_layers = [[StepLayer(layer) for layer in part.transformer.layers] for part in slices]
        self._depformer_heads = [product(part.linear_out) for part in slices]

    def step(
        self,
        tokens: mx.array,
        uniforms: mx.array,
        settings: mx.array,
        keys: Layers,
        values: Layers,
        window: int,
        branches: SamplingBranches,
    ) -> tuple[mx.array, Layers, Layers]:
        """Return (rows, 10), the text token, eight codes and whether all logits were finite, and the new KV cache.

        `tokens` is (rows, 17 + 1 + 2 + 30): tokens read, position, text token and mode of `Force`, recent text;
        `uniforms` (rows, 9); `settings` (rows, 6) the fields of `SamplingSettings`; `keys` and `values` are those of
        all slots. `window` and `branches` fix the graph.
        """
        kv_cache = KVCache(list(keys), list(values))
        read, position, forced, recent_text = mx.split(tokens, _PARTS, axis=1)
        text_temperature, text_top_k, audio_temperature, audio_top_k, penalty, bias = mx.split(settings, 6, axis=1)
        uniform = mx.split(uniforms, 1 + CODEBOOKS, axis=1)
        sums: list[mx.array] = []

        def draw(codebook: int, logits: mx.array) -> mx.array:
            logits = logits.astype(mx.float32)
            sums.append(logits.sum(axis=-1, keepdims=True))
            if codebook != _TEXT:
                limit = branches.audio_top_k_limit
                return sample(logits, uniform[codebook + 1], audio_temperature, audio_top_k, limit, branches)
            if branches.penalizes:
                logits = penalize(logits, recent_text, penalty, bias)
            text = sample(logits, uniform[0], text_temperature, text_top_k, branches.text_top_k_limit, branches)
            return force(text, forced[:, :1], forced[:, 1:], self._word_parts)

        sampled = self._speak(self._transform(self._embed(read), position[:, 0], kv_cache, window), draw)
        finite = mx.isfinite(mx.concatenate(sums, axis=1).sum(axis=1, keepdims=True))
        return mx.concatenate([sampled, finite.astype(mx.int32)], axis=1), kv_cache.keys, kv_cache.values

    def _speak(self, x: mx.array, draw: _Sample) -> mx.array:
        """Draw the text token and then, code by code, the frame that goes with it; return (rows, 9)."""
        tokens = [draw(_TEXT, self._text_head(x))]
        inputs = mx.split(self._depformer_in(x), CODEBOOKS, axis=-1)
        past: list[list[tuple[mx.array, mx.array]]] = [[] for _ in self._depformer_layers[0]]
        for codebook, layers in enumerate(self._depformer_layers):
            y = inputs[codebook] + self._depformer_tables[codebook](tokens[-1][:, 0])
            for layer, seen in zip(layers, past, strict=True):
                q, k, v = layer.project(y)
                seen.append((k, v))
                keys, values = (mx.concatenate(list(part), axis=2) for part in zip(*seen, strict=True))
                y = layer.finish(y, layer.attend(q, keys, values) if codebook else v)
            tokens.append(draw(codebook, self._depformer_heads[codebook](y)))
        return mx.concatenate(tokens, axis=1)
