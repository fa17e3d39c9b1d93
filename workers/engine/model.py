"""One step of many rows as a pure function of fixed shapes, over moshi_mlx's modules.

This is `moshi_mlx.models.Lm._sample` with the state taken out: tokens, uniforms and KV caches come in as arguments, so
that `mx.compile` can keep the step. Each row has its own position. Throughout, x is (rows, dim).
"""

from collections.abc import Callable
from functools import cache

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.engine.kv_cache import KVCache, visible, visible_in_prefill
from workers.engine.sampling import SamplingBranches, force, penalize, sample
from workers.engine.weights import StepLayer, join, product, table
from workers.messages import CODEBOOKS, STEP_TOKENS

_TEXT = -1
_PARTS = [STEP_TOKENS, STEP_TOKENS + 1, STEP_TOKENS + 3]
"""Where the parts of the `tokens` of a step end, but for the last."""
_Layers = list[mx.array]
_Sample = Callable[[int, mx.array], mx.array]
"""Takes _TEXT or a codebook 0..7 and its logits (rows, vocabulary); returns one token a row, (rows, 1) int32."""


class Model:
    """The weights of a loaded `Lm`, whose modules it takes over; the `Lm`'s own caches stay unused."""

    def __init__(self, lm: Lm, word_parts: mx.array) -> None:
        """`word_parts` (text vocabulary,) int32 says what each text token is to a word: see `sampling.force`."""
        config = lm.cfg
        self._word_parts = word_parts
        self._text_table, self._audio_table = table(lm.text_emb), table(join(lm.audio_embs))
        self._first_entry = mx.arange(config.audio_codebooks) * config.audio_vocab_size
        self._layers = [StepLayer(layer) for layer in lm.transformer.layers]
        self._rope_base = float(config.transformer.max_period)
        self._dtype = lm.out_norm.weight.dtype
        self._norm, self._text_head = lm.out_norm, product(lm.text_linear)
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
        keys: _Layers,
        values: _Layers,
        window: int,
        branches: SamplingBranches,
    ) -> tuple[mx.array, _Layers, _Layers]:
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

    def prefill(self, inputs: mx.array, start: int, kv_cache: KVCache, slot: int) -> bool:
        """Write the keys and values of steps start, start+1, … of one slot; return whether all of them are finite.

        `inputs` are the tokens that the steps read, (steps, 17) int32, or embeddings in their place, (steps, dim)
        float32; at most `context` steps at a time. The steps take the place of the rows; each sees itself, those before
        it in this pass, and what the cache holds of older ones.
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
        """Sum the embeddings of the tokens, (rows, 17), in moshi_mlx's order: in bf16 another gives other tokens."""
        x = self._text_table(tokens[:, :1])
        for code in mx.split(self._audio_table(tokens[:, 1:] + self._first_entry), 2 * CODEBOOKS, axis=1):
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
