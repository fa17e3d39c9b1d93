"""What a library must be able to do to compute Mimi's step, beside adding, multiplying and slicing its arrays."""

from collections.abc import Sequence
from typing import Any, Protocol

from workers.codec.weights import Linear, Norm

Array = Any


class Ops(Protocol):
    """One library's operations, for the rows of one step."""

    def linear(self, x: Array, layer: Linear) -> Array:
        """Return x @ weight + bias, over the last axis of x."""

    def elu(self, x: Array) -> Array:
        """Return x where it is positive, exp(x) - 1 elsewhere."""

    def gelu(self, x: Array) -> Array:
        """Return x · Φ(x), the exact one."""

    def layer_norm(self, x: Array, norm: Norm) -> Array:
        """Normalise over the last axis; epsilon is 1e-5."""

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        """Put arrays one behind the other."""

    def stack(self, columns: Sequence[Array]) -> Array:
        """Make arrays (rows,) the columns of one (rows, columns)."""

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Give x another shape, in which one length may be -1."""

    def smallest(self, x: Array) -> Array:
        """Return where in each row of x (rows, n) the smallest number is, (rows,)."""

    def take(self, table: Array, indices: Array) -> Array:
        """Return the rows of a table at indices (rows,)."""

    def attend(self, index: int, q: Array, k: Array, v: Array) -> Array:
        """Remember keys and values of two positions in layer `index`; return what the queries see.

        All are (rows, 2, 8, 64), and so is what is returned; the queries are scaled already.
        """
