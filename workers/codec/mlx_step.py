"""Mimi's step on MLX: one compiled graph, one evaluation, whatever rows advance.

Theory. Shapes are fixed: a step computes the first `rows` slots, up to the highest one that advances, in powers of two,
so that a few graphs serve everything. A row among them that sits out is computed along at its unchanged position:
its tails are kept, and what it writes to its ring lands in the two entries that its next real step overwrites before it
reads (see `window`). Keys and values are written in place: MLX gives the buffer on when nobody else holds it.

MLX binds streams to threads: make it, and call it, in one thread only. On CUDA, MLX_ENABLE_TF32=0 keeps products in
float32; with TF32 codes differ.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.codec.frame import Place, forward_of, nothing_for
from workers.codec.state import Rows
from workers.codec.tails import Tails
from workers.codec.weights import HEAD_DIM, HEADS, LAYERS, DecoderWeights, EncoderWeights, Linear, Norm, converted
from workers.codec.window import ENTRIES, hidden, turn

_EPSILON = 1e-5
Layers = list[mx.array]
Advanced = tuple[tuple[mx.array, ...], mx.array, Layers, Layers]
"""What a step brings, and tails, keys and values after it."""


class MlxOps:
    """The operations for the first rows of a state, for one step; `keys` and `values` are the rings of all slots."""

    def __init__(self, keys: Layers, values: Layers, entry: mx.array, unseen: mx.array) -> None:
        self.keys, self.values, self._unseen = keys, values, unseen
        self._place = mx.arange(entry.size)[:, None], entry[:, None] + mx.arange(2)

    def linear(self, x: mx.array, layer: Linear) -> mx.array:
        product: mx.array = x @ layer.weight
        return product if layer.bias is None else product + layer.bias

    def elu(self, x: mx.array) -> mx.array:
        return mx.where(x > 0, x, mx.expm1(mx.minimum(x, 0)))

    def gelu(self, x: mx.array) -> mx.array:
        return x * (1 + mx.erf(x * 0.5**0.5)) * 0.5

    def layer_norm(self, x: mx.array, norm: Norm) -> mx.array:
        return mx.fast.layer_norm(x, norm.weight, norm.bias, _EPSILON)

    def concat(self, parts: Sequence[mx.array], axis: int) -> mx.array:
        return mx.concatenate(list(parts), axis)

    def stack(self, columns: Sequence[mx.array]) -> mx.array:
        return mx.stack(list(columns), axis=1).astype(mx.int32)

    def reshape(self, x: mx.array, shape: tuple[int, ...]) -> mx.array:
        return x.reshape(shape)

    def smallest(self, x: mx.array) -> mx.array:
        return mx.argmin(x, axis=1)

    def take(self, table: mx.array, indices: mx.array) -> mx.array:
        return table[indices]

    def attend(self, index: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        rows, entries = self._place
        self.keys[index][rows, :, entries] = k
        self.values[index][rows, :, entries] = v
        keys, values = self.keys[index][: rows.size], self.values[index][: rows.size]
        seen = mx.fast.scaled_dot_product_attention(q.swapaxes(1, 2), keys, values, scale=1.0, mask=self._unseen)
        return seen.swapaxes(1, 2)


class MlxStep:
    """One direction of `slots` calls over one set of weights, which it takes a copy of."""

    def __init__(self, weights: EncoderWeights | DecoderWeights, slots: int) -> None:
        self.slots = slots
        self._forward, self._nothing = forward_of(weights), nothing_for(weights, slots)
        self._weights = converted(weights, _linear, mx.array)
        self._position = np.zeros(slots, np.int64)
        self._tails = mx.zeros((slots, weights.tail_floats))
        shape = (slots, HEADS, ENTRIES, HEAD_DIM)
        self._keys, self._values = ([mx.zeros(shape) for _ in range(LAYERS)] for _ in range(2))
        self._compiled: Callable[..., Advanced] = mx.compile(self._advance)
        arrays = self._tails, *self._keys, *self._values
        mx.eval(arrays)
        self.bytes_per_call = sum(array.nbytes for array in arrays) // slots + self._position.itemsize

    def open(self, slot: int) -> None:
        self._position[slot] = 0
        self._tails[slot] = 0

    def scrub(self, slot: int) -> None:
        for layer in (*self._keys, *self._values):
            layer[slot] = 0

    def warm(self) -> None:
        """Make every graph that a step may need."""
        for highest in [*(2**n - 1 for n in range(self.slots.bit_length())), self.slots - 1]:
            self.run(np.array([highest]), self._nothing[:1])
            self.open(highest)

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Let these slots advance by one frame; return what `forward` makes of x, row by row in their order."""
        rows = min(1 << int(slots.max()).bit_length(), self.slots)
        position = self._position[:rows]
        inputs, active = np.zeros((rows, *x.shape[1:]), x.dtype), np.zeros((rows, 1), np.bool_)
        inputs[slots], active[slots] = x, True
        fresh = (position == 0).astype(np.float32)[:, None, None]
        entry = (position % ENTRIES).astype(np.int32)
        here = *turn(position), fresh, hidden(position), entry, active
        results, self._tails, self._keys, self._values = self._compiled(
            mx.array(inputs), *map(mx.array, here), self._tails, self._keys, self._values
        )
        mx.eval(results, self._tails, self._keys, self._values)
        self._position[slots] += 2
        return tuple(np.array(result)[slots] for result in results)

    def _advance(
        self,
        x: mx.array,
        cos: mx.array,
        sin: mx.array,
        fresh: mx.array,
        unseen: mx.array,
        entry: mx.array,
        active: mx.array,
        tails: mx.array,
        keys: Layers,
        values: Layers,
    ) -> Advanced:
        """Return the results of the first rows, and the state of all slots after the step."""
        ops, old = MlxOps(list(keys), list(values), entry, unseen), tails[: entry.size]
        new = Tails(ops, old)
        results = self._forward(ops, self._weights, new, Place(cos, sin, fresh), x)
        tails[: entry.size] = mx.where(active, new.kept(), old)
        return results, tails, ops.keys, ops.values


def _linear(layer: Linear) -> Linear:
    return Linear(mx.array(layer.weight), None if layer.bias is None else mx.array(layer.bias))
