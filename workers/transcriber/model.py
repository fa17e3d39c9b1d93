"""One step of speech-to-text as a pure function of fixed shapes: the text token by argmax, and whether a turn is over.

The semantic voice activity of Kyutai's checkpoints: of the extra heads, 6 classes each, the third tells by its first
class that the caller has said all they wanted (`rust/moshi-server`, PERSONAPLEX.md §6).
"""

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.engine.backbone import Backbone, Layers
from workers.engine.kv_cache import KVCache
from workers.engine.weights import product

TURN_HEAD = 2
OVER = 0.5


class SpeechModel(Backbone):
    """The weights of a loaded `Lm` without depformer, whose modules it takes over."""

    def __init__(self, lm: Lm) -> None:
        super().__init__(lm)
        heads = lm.extra_heads
        self._turn_head = product(heads[TURN_HEAD]) if len(heads) > TURN_HEAD else None

    def step(self, tokens: mx.array, keys: Layers, values: Layers, window: int) -> tuple[mx.array, Layers, Layers]:
        """Return (rows, 3): text token, whether the turn is over, whether all logits were finite; and the KV cache.

        `tokens` is (rows, 33 + 1): the text token and the 32 codes read, the position; `keys` and `values` are those of
        all slots; `window` fixes the graph.
        """
        kv_cache = KVCache(list(keys), list(values))
        x = self._transform(self._embed(tokens[:, :-1]), tokens[:, -1], kv_cache, window)
        logits = self._text_head(x)
        text, finite = mx.argmax(logits, axis=-1), mx.isfinite(logits.astype(mx.float32).sum(axis=-1))
        over = (
            mx.softmax(self._turn_head(x).astype(mx.float32), axis=-1)[:, 0] > OVER
            if self._turn_head
            else finite & False
        )
        columns = [column.astype(mx.int32)[:, None] for column in (text, over, finite)]
        return mx.concatenate(columns, axis=1), kv_cache.keys, kv_cache.values
