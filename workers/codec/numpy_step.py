"""Mimi's step on numpy: its operations, and the rows that advance, divided among threads.

At a few rows the time goes into reading weights: 150 MB a frame and direction. BLAS libraries first copy ("pack") the
matrix of every larger product, which costs more than the product itself; but OpenBLAS does a product of at most 10⁶
multiplications as it is (its small-matrix kernels, x86-64 with AVX-512 and arm64). So weights lie in tiles of 64
columns, and one call of matmul walks through all tiles: measured 1.2 to 3 times as fast as one product, at every size
that Mimi has. Elsewhere it is about even. These kernels also give a row the same result whatever rows are beside it:
each call is bit-equal to itself alone.

That holds for OpenBLAS only. numpy on macOS is built on Apple's Accelerate, others on MKL or a reference BLAS: there a
product is one plain call (`plain_matrix`), and a call among others is equal to itself alone but for rounding.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import HEADS
from workers.codec.codec import Row
from workers.codec.frame import FORWARD, Tails
from workers.codec.state import ENTRIES, CodecState, Rows, attention_mask, rotation
from workers.codec.tensors import F32
from workers.codec.weights import Linear, Norm, Weights, converted, tail_floats
from workers.messages import Stage

_SMALL = 1_000_000
_TILE = 64
_DEEP = 4_096
"""A tile's most rows; a deeper matrix is cut, or too few of x's rows would make a small product."""
_EPSILON = np.float32(1e-5)
_ROOT_HALF = np.float32(0.5**0.5)
_GELU_T = np.float32(0.3275911)
_GELU = np.array([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592], np.float32)


Matrix = Callable[[F32], F32]
"""The product of x (rows, in) with a matrix (in, out), laid out for a few rows."""


def has_openblas() -> bool:
    """Tell whether this numpy was built on OpenBLAS: `show_config` names scipy-openblas, openblas64, …"""
    config: Any = np.show_config(mode="dicts")
    return "openblas" in str(config.get("Build Dependencies", {}).get("blas", {}).get("name", "")).lower()


def plain_matrix(weight: F32) -> Matrix:
    """Return a matrix as it is, for any BLAS."""
    return lambda x: x @ weight


class TiledMatrix:
    """A matrix (in, out) cut into tiles, in memory one after the other: `parts` are (tiles, rows, columns).

    A single column gets an empty one beside it: products with one column, or of one row, are another routine of BLAS,
    which rounds in another order and wakes BLAS's threads.
    """

    def __init__(self, weight: F32) -> None:
        self.out = weight.shape[1]
        weight = np.pad(weight, ((0, 0), (0, 1))) if self.out == 1 else weight
        depth, width = weight.shape
        columns = _TILE if width % _TILE == 0 else width
        cut = weight.reshape(-(-depth // _DEEP), -1, width // columns, columns)
        self.parts: list[F32] = [np.ascontiguousarray(part) for part in cut.transpose(0, 2, 1, 3)]

    def __call__(self, x: F32) -> F32:
        wide = x if len(x) > 1 else np.repeat(x, 2, axis=0)
        depth = self.parts[0].shape[1]
        total = self._part(wide[:, :depth], self.parts[0])
        for index, tiles in enumerate(self.parts[1:], 1):
            total += self._part(wide[:, index * depth : (index + 1) * depth], tiles)
        return total[: len(x), : self.out]

    def _part(self, x: F32, tiles: F32) -> F32:
        y = np.empty((len(x), len(tiles) * tiles.shape[2]), np.float32)
        height = _even(len(x), max(2, _SMALL // tiles[0].size))
        whole = len(x) - len(x) % height
        _multiply(x[:whole], tiles, y[:whole], height)
        if whole < len(x):
            _multiply(x[-height:], tiles, y[-height:], height)
        return y


def _multiply(x: F32, tiles: F32, y: F32, height: int) -> None:
    """Write x times all tiles to y, `height` rows at a time, which the rows must be a multiple of."""
    count, depth, columns = tiles.shape
    by_tile = y.reshape(-1, height, count, columns).transpose(0, 2, 1, 3)
    np.matmul(x.reshape(-1, 1, height, depth), tiles, out=by_tile)


def _even(rows: int, most: int) -> int:
    """Return the height of the fewest even parts of `rows`, each at most `most`."""
    parts = -(-rows // most)
    return -(-rows // parts)


class NumpyOps:
    """The operations for some rows of a state, for one step."""

    def __init__(self, state: CodecState, slots: Rows) -> None:
        self._state = state
        position = state.position[slots]
        self._rows = list(zip(range(len(slots)), slots.tolist(), (position % ENTRIES).tolist(), strict=True))
        self._mask = attention_mask(position)
        self.cos, self.sin = rotation(position)
        self.first = (position == 0).astype(np.float32)[:, None, None]

    def linear(self, x: F32, layer: Linear) -> F32:
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        y: F32 = layer.weight(rows)
        if layer.bias is not None:
            y += layer.bias
        return y.reshape(*x.shape[:-1], -1)

    def elu(self, x: F32) -> F32:
        y = np.minimum(x, 0)
        np.expm1(y, out=y)
        np.maximum(x, y, out=y)
        return y

    def gelu(self, x: F32) -> F32:
        """Φ by formula 7.1.26 of Abramowitz and Stegun, which is off by 1.5 · 10⁻⁷ at most."""
        size = np.abs(x) * _ROOT_HALF
        t = 1 / (1 + _GELU_T * size)
        tail = _GELU[0] * t
        for factor in _GELU[1:]:
            tail += factor
            tail *= t
        size *= size
        tail *= np.exp(-size)
        y: F32 = np.copysign(1 - tail, x)
        y += 1
        y *= x
        y *= np.float32(0.5)
        return y

    def layer_norm(self, x: F32, norm: Norm) -> F32:
        y: F32 = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("...i,...i->...", y, y)[..., None] / np.float32(x.shape[-1])
        y /= np.sqrt(variance + _EPSILON)
        y *= norm.weight
        y += norm.bias
        return y

    def concat(self, parts: Sequence[F32], axis: int) -> F32:
        return np.concatenate(parts, axis)

    def attend(self, index: int, q: F32, k: F32, v: F32) -> F32:
        keys, values = self._state.keys[index], self._state.values[index]
        scores = np.empty((len(self._rows), HEADS, 2, ENTRIES), np.float32)
        for row, slot, entry in self._rows:
            keys[slot, :, entry : entry + 2] = k[row].swapaxes(0, 1)
            values[slot, :, entry : entry + 2] = v[row].swapaxes(0, 1)
            np.matmul(q[row].swapaxes(0, 1), keys[slot].swapaxes(1, 2), out=scores[row])
        scores += self._mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        seen = np.empty(q.shape, np.float32)
        for row, slot, _ in self._rows:
            np.matmul(scores[row], values[slot], out=seen[row].swapaxes(0, 1))
        return seen


class NumpyStep:
    """One direction of `slots` calls over one set of weights."""

    def __init__(
        self,
        stage: Stage,
        weights: Weights,
        slots: int,
        threads: int = 1,
        matrix: Callable[[F32], Matrix] | None = None,
    ) -> None:
        """Lay out the weights as `matrix`, by default as suits this BLAS."""
        make = matrix or (TiledMatrix if has_openblas() else plain_matrix)
        self._threads, self._forward = threads, FORWARD[stage]
        self._weights = converted(weights, lambda linear: Linear(make(linear.weight), linear.bias))
        self.state = CodecState.allocate(slots, tail_floats(weights), lambda shape: np.zeros(shape, np.float32))
        self._pool = ThreadPoolExecutor(threads, "mimi") if threads > 1 else None

    def warm(self, frame: Row) -> None:
        """Read all weights."""
        self.run(np.zeros(1, np.intp), frame[None])
        self.state.open(0)

    def run(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        if self._pool is None or len(slots) == 1:
            return self._advance(slots, x)
        parts = min(self._threads, len(slots))
        results = self._pool.map(self._advance, np.array_split(slots, parts), np.array_split(x, parts))
        return tuple(np.concatenate(column) for column in zip(*results, strict=True))

    def _advance(self, slots: Rows, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        state, ops = self.state, NumpyOps(self.state, slots)
        tails = Tails(ops, state.tails[slots])
        with np.errstate(all="ignore"):  # a row that overflows is seen by its result
            results = self._forward(ops, self._weights, tails, x)
        state.tails[slots] = tails.written()
        state.position[slots] += 2
        return results
