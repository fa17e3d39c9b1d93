"""What Kyutai's models have in common: a sum of embeddings, the main transformer, the head of the text.

Moshi adds a depformer (`model`), speech-to-text nothing (`workers.transcriber.model`). A pure function of fixed shapes,
over moshi_mlx's modules; x is (rows, dim), and each row has its own position.
"""

from functools import cache

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.engine.kv_cache import KVCache, visible, visible_in_prefill
from workers.engine.weights import StepLayer, join, product, table

Layers = list[mx.array]


class Backbone:
    """The main transformer of a loaded `Lm`, whose modules it takes over."""

    def __init__(self, lm: Lm) -> None:
        config = lm.cfg
        self._text_table, self._audio_table = table(lm.text_emb), table(join(lm.audio_embs))
        self._first_entry = mx.arange(config.audio_codebooks) * config.audio_vocab_size
        self._layers = [StepLayer(layer) for layer in lm.transformer.layers]
        self._rope_base = float(config.transformer.max_period)
        self._dtype = lm.out_norm.weight.dtype
        self._norm, self._text_head = lm.out_norm, product(lm.text_linear)

    def prefill(self, inputs: mx.array, start: int, kv_cache: KVCache, slot: int) -> bool:
        """Write the keys and values of steps start, start+1, … of one slot; return whether all of them are finite.

        `inputs` are the tokens that the steps read, (steps, 1 + codebooks) int32, or embeddings in their place,
        (steps, dim) float32; at most `context` steps at a time. The steps take the place of the rows; each sees itself,
        those before it in this pass, and what the cache holds of older ones.
        """
        x = self._embed(inputs) if inputs.dtype == mx.int32 else inputs.astype(self._dtype)
        position, k, v = mx.arange(start, start + len(inputs)), x, x
        mask = visible_in_prefill(start, len(inputs), kv_cache.context)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.project(x)
            q, k, v = (part.swapaxes(0, 2) for part in (self._rope(q, position), self._rope(k, position), v))
            seen = layer.attend(q, *kv_cache.prefill(index, slot, start, k, v), mask)
            x = layer.finish(x, seen.swapaxes(0, 2))
        finite = mx.isfinite(k).all() & mx.isfinite(v).all()  # what is not in an earlier layer is in the last one
        mx.eval(kv_cache.keys, kv_cache.values, finite)
        return bool(finite.item())

    def _embed(self, tokens: mx.array) -> mx.array:
        """Sum the embeddings of the tokens, (rows, 1 + codebooks), in moshi_mlx's order.

        In bf16 another order gives other tokens.
        """
        x = self._text_table(tokens[:, :1])
        for code in mx.split(self._audio_table(tokens[:, 1:] + self._first_entry), tokens.shape[1] - 1, axis=1):
            x = x + code
        return x[:, 0]

    def _transform(self, x: mx.array, position: mx.array, kv_cache: KVCache, window: int) -> mx.array:
        """Run the main transformer: append this step to the cache, read the first `window` entries of it."""
        rows, mask = kv_cache.rows(position), visible(position, window)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.project(x)
            q, k = self._rope(q, position), self._rope(k, position)
            x = layer.finish(x, layer.attend(q, *kv_cache.append(index, rows, k, v, window), mask))
        return self._norm(x)  # type: ignore[no-any-return]

    def _rope(self, x: mx.array, position: mx.array) -> mx.array:
        """Rotate by the rows' positions; one offset a row, always: a single one faults on Metal before mlx 0.32."""
        return mx.fast.rope(x, x.shape[-1], traditional=True, base=self._rope_base, scale=1.0, offset=position)


@cache
def can_compile() -> bool:
    """Tell whether `mx.compile` works (twice as fast at one row): on a Linux CPU it calls a C++ compiler."""
    try:
        mx.eval(mx.compile(lambda x: mx.exp(x) * x + 1)(mx.ones(3)))
    except RuntimeError:
        return False
    return True
