"""Mimi's step on numpy: the rows that advance, divided among threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.codec.codec import Row
from workers.codec.frame import FORWARD, Tails
from workers.codec.numpy_ops import Matrix, NumpyOps, TiledMatrix, has_openblas, plain_matrix
from workers.codec.state import CodecState, Rows
from workers.codec.tensors import F32
from workers.codec.weights import Linear, Weights, converted, tail_floats
from workers.messages import Stage


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
