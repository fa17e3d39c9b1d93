"""The arithmetic of one step for many rows, over moshi_mlx's modules.

This is `moshi_mlx.models.Lm._sample` with the state taken out: what a row remembers comes in as arguments, so that the
whole step is one pure function of fixed shapes. Each row has a position and a ring of its own. Throughout, x is
(rows, dim).
"""

from collections.abc import Callable

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.engine import kv_cache as ring
from workers.engine.weights import Layer, join, product, table
from workers.messages import CODEBOOKS

TEXT = -1

Pick = Callable[[int, mx.array], mx.array]
"""Takes TEXT or a codebook 0..7 and its logits (rows, vocabulary); returns one token a row, (rows, 1) int32."""


class Model:
    """The weights, and the three parts of a step: `embed`, `transform`, `speak`."""

    def __init__(self, lm: Lm) -> None:
        """Take over the modules of a loaded `Lm`; its own caches stay unused."""
        config = lm.cfg
        self._text_table, self._audio_table = table(lm.text_emb), table(join(lm.audio_embs))
        self._first_entry = mx.arange(config.audio_codebooks) * config.audio_vocab_size
        self._layers = [Layer(layer) for layer in lm.transformer.layers]
        self._rope_base = float(config.transformer.max_period)
        self._norm, self._text_head = lm.out_norm, product(lm.text_linear)
        slices = lm.depformer.slices
        self._hint = product(join([part.linear_in for part in slices]))
        self._tables = [table(part.emb) for part in slices]
        self._slices = [[Layer(layer) for layer in part.transformer.layers] for part in slices]
        self._heads = [product(part.linear_out) for part in slices]

    def embed(self, tokens: mx.array) -> mx.array:
        """Sum the embeddings of the tokens read, (rows, 17): text, own codes, caller's codes; return x.

        The order of the sum is moshi_mlx's: in bf16 another one gives other tokens.
        """
        x = self._text_table(tokens[:, :1])
        for code in mx.split(self._audio_table(tokens[:, 1:] + self._first_entry), 2 * CODEBOOKS, axis=1):
            x = x + code
        return x[:, 0]

    def transform(self, x: mx.array, position: mx.array, memory: ring.Ring, size: int) -> mx.array:
        """Run the main transformer: write this step into `memory`, read the first `size` entries of it."""
        place, mask = ring.place(position, memory.context), ring.visible(position, size)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.look(x)
            q, k = self._rope(q, position), self._rope(k, position)
            x = layer.go_on(x, layer.attend(q, *memory.turn(index, place, k, v, size), mask))
        return self._norm(x)  # type: ignore[no-any-return]

    def speak(self, x: mx.array, pick: Pick) -> mx.array:
        """Draw the text token and then, code by code, the frame that goes with it; return (rows, 9)."""
        tokens = [pick(TEXT, self._text_head(x))]
        hints = mx.split(self._hint(x), CODEBOOKS, axis=-1)
        past: list[list[tuple[mx.array, mx.array]]] = [[] for _ in self._slices[0]]
        for codebook, layers in enumerate(self._slices):
            y = hints[codebook] + self._tables[codebook](tokens[-1][:, 0])
            for layer, seen in zip(layers, past, strict=True):
                q, k, v = layer.look(y)
                seen.append((k, v))
                keys, values = (mx.concatenate(list(part), axis=2) for part in zip(*seen, strict=True))
                y = layer.go_on(y, layer.attend(q, keys, values) if codebook else v)
            tokens.append(pick(codebook, self._heads[codebook](y)))
        return mx.concatenate(tokens, axis=1)

    def recall(self, tokens: mx.array, start: int, memory: ring.Ring, slot: int) -> None:
        """Write what steps start, start+1, … of one slot leave in its ring; `tokens` (steps, 17) is what they read.

        At most `context` steps at a time. The steps take the place of the rows; each sees itself, those before it in
        this pass, and what the ring holds of older ones.
        """
        x = self.embed(tokens)
        steps = len(tokens)
        position = mx.arange(start, start + steps)
        mask = ring.visible_to_many(start, steps, memory.context)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.look(x)
            q, k, v = (part.swapaxes(0, 2) for part in (self._rope(q, position), self._rope(k, position), v))
            seen = layer.attend(q, *memory.extend(index, slot, start, k, v), mask)
            x = layer.go_on(x, seen.swapaxes(0, 2))
        mx.eval(memory.keys, memory.values)

    def _rope(self, x: mx.array, position: mx.array) -> mx.array:
        """Turn queries or keys to their rows' positions; one offset a row, always (MOSHI.md §4)."""
        return mx.fast.rope(x, x.shape[-1], traditional=True, base=self._rope_base, scale=1.0, offset=position)
