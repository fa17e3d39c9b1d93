"""Mimi's step on MLX: one compiled graph, one evaluation, whatever rows advance.

Shapes are fixed: a step computes the first `rows` slots, up to the highest one that advances, in powers of two, so that
a few graphs serve everything. A row among them that sits out is computed along at its unchanged position: its tails are
kept, and what it writes to its ring lands in the two entries that its next real step overwrites before it reads (see
`state`). Keys and values are written in place: MLX reuses the buffer when nobody else holds it.

MLX binds streams to threads: make it, and call it, in one thread only. On CUDA, MLX_ENABLE_TF32=0 keeps products in
float32; with TF32 codes differ.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.codec.codec import Row
from workers.codec.frame import FORWARD, Tails
from workers.codec.state import ENTRIES, CodecState, Rows, attention_mask, rotation
from workers.codec.weights import Linear, Norm, Weights, converted, tail_floats
from workers.messages import Stage

_EPSILON = 1e-5
Layers = list[mx.array]
Advanced = tuple[tuple[mx.array, ...], mx.array, Layers, Layers]
"""The results of a step, and tails, keys and values after it."""


class MlxOps:
    """The operations for the first rows of a state, for one step; `keys` and `values` are the rings of all slots."""

    def __init__(self, keys: Layers, values: Layers, position: dict[str, mx.array]) -> None:
        self.keys, self.values, self._mask = keys, values, position["mask"]
        self.cos, self.sin, self.first = position["cos"], position["sin"], position["first"]
        entry = position["entry"]
        self._at = mx.arange(entry.size)[:, None], entry[:, None] + mx.arange(2)

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

    def attend(self, index: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        rows, entries = self._at
        self.keys[index][rows, :, entries] = k
        self.values[index][rows, :, entries] = v
        keys, values = self.keys[index][: rows.size], self.values[index][: rows.size]
        seen = mx.fast.scaled_dot_product_attention(q.swapaxes(1, 2), keys, values, scale=1.0, mask=self._mask)
        return seen.swapaxes(1, 2)


class MlxStep:
    """One direction of `slots` calls over one set of weights, which it copies."""

    def __init__(self, stage: Stage, weights: Weights, slots: int) -> None:
        self._slots, self._forward = slots, FORWARD[stage]
        self._weights = converted(weights, _linear, mx.array)
        self.state = CodecState.allocate(slots, tail_floats(weights), mx.zeros)
        self._compiled: Callable[..., Advanced] = mx.compile(self._advance)
        mx.eval(self.state.tails, self.state.keys, self.state.values)

    def warm(self, frame: Row) -> None:
        """Make every graph that a step may need."""
        for highest in [*(2**n - 1 for n in range(self._slots.bit_length())), self._slots - 1]:
            self.run(np.array([highest]), frame[None])
            self.state.open(highest)

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        state = self.state
        rows = min(1 << int(slots.max()).bit_length(), self._slots)
        inputs, active = np.zeros((rows, *x.shape[1:]), x.dtype), np.zeros((rows, 1), np.bool_)
        inputs[slots], active[slots] = x, True
        results, state.tails, state.keys, state.values = self._compiled(
            mx.array(inputs),
            mx.array(active),
            _position(state.position[:rows]),
            state.tails,
            state.keys,
            state.values,
        )
        mx.eval(results, state.tails, state.keys, state.values)
        state.position[slots] += 2
        return tuple(np.array(result)[slots] for result in results)

    def _advance(
        self,
        x: mx.array,
        active: mx.array,
        position: dict[str, mx.array],
        tails: mx.array,
        keys: Layers,
        values: Layers,
    ) -> Advanced:
        """Return the results of the first rows, and the state of all slots after the step."""
        ops, old = MlxOps(list(keys), list(values), position), tails[: len(x)]
        new = Tails(ops, old)
        results = self._forward(ops, self._weights, new, x)
        tails[: len(x)] = mx.where(active, new.written(), old)
        return results, tails, ops.keys, ops.values


def _position(position: NDArray[np.int64]) -> dict[str, mx.array]:
    """Return what a step needs to know of where its rows are."""
    cos, sin = rotation(position)
    first = (position == 0).astype(np.float32)[:, None, None]
    entry = (position % ENTRIES).astype(np.int32)
    host = {"cos": cos, "sin": sin, "first": first, "mask": attention_mask(position), "entry": entry}
    return {name: mx.array(array) for name, array in host.items()}


def _linear(layer: Linear) -> Linear:
    return Linear(mx.array(layer.weight), None if layer.bias is None else mx.array(layer.bias))
