"""Mimi's step on numpy: the rows that advance, shared out among threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.codec.frame import Place, forward_of, nothing_for
from workers.codec.numpy_ops import Matrix, NumpyOps, Plain, Tiles, has_openblas
from workers.codec.state import Rows, make_state
from workers.codec.tails import Tails
from workers.codec.tensors import F32
from workers.codec.weights import DecoderWeights, EncoderWeights, Linear, converted
from workers.codec.window import turn

Result = NDArray[Any]


class NumpyStep:
    """One direction of `slots` calls over one set of weights, which it takes a copy of."""

    def __init__(
        self,
        weights: EncoderWeights | DecoderWeights,
        slots: int,
        threads: int = 1,
        layout: Callable[[F32], Matrix] | None = None,
    ) -> None:
        """`threads` share the rows of a step; `layout` is how a matrix is stored, by default what suits this BLAS."""
        layout = layout or (Tiles if has_openblas() else Plain)
        self.slots, self._threads = slots, threads
        self._forward, self._nothing = forward_of(weights), nothing_for(weights, 1)
        self._weights = converted(weights, lambda linear: Linear(layout(linear.weight), linear.bias))
        self._state = make_state(slots, weights.tail_floats)
        self._pool = ThreadPoolExecutor(threads, "mimi") if threads > 1 else None
        self.bytes_per_call = self._state.bytes_per_call

    def open(self, slot: int) -> None:
        self._state.open(slot)

    def scrub(self, slot: int) -> None:
        self._state.scrub(slot)

    def warm(self) -> None:
        """Touch all weights."""
        self.run(np.zeros(1, np.intp), self._nothing)
        self.open(0)

    def run(self, slots: Rows, x: Result) -> tuple[Result, ...]:
        """Let these slots advance by one frame; return what `forward` makes of x, row by row in their order."""
        if self._pool is None or len(slots) == 1:
            return self._advance(slots, x)
        parts = min(self._threads, len(slots))
        results = self._pool.map(self._advance, np.array_split(slots, parts), np.array_split(x, parts))
        return tuple(np.concatenate(column) for column in zip(*results, strict=True))

    def _advance(self, slots: Rows, x: Result) -> tuple[Result, ...]:
        state, ops = self._state, NumpyOps(self._state, slots)
        position, tails = state.position[slots], Tails(ops, state.tails[slots])
        fresh = (position == 0).astype(np.float32)[:, None, None]
        with np.errstate(all="ignore"):  # a row that overflows is seen by its result
            results = self._forward(ops, self._weights, tails, Place(*turn(position), fresh), x)
        state.tails[slots] = tails.kept()
        state.position[slots] += 2
        return results
