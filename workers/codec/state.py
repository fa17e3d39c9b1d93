"""What one direction of the codec remembers of its calls: a handful of arrays, one row a slot.

It never grows, whatever the length of a call: 7.9 MiB of keys and values and some 50 to 90 KiB of tails.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.codec.tensors import F32
from workers.codec.weights import HEAD_DIM, HEADS, LAYERS
from workers.codec.window import ENTRIES, Positions

Rows = NDArray[np.intp]
"""The slots that advance in a step, each once."""


@dataclass(frozen=True, slots=True)
class State:
    """`position` (slots,), `tails` (slots, floats), and for each layer `keys` and `values` (slots, 8, 252, 64)."""

    position: Positions
    tails: F32
    keys: list[F32]
    values: list[F32]

    def open(self, slot: int) -> None:
        """Begin a call in this row: what the ring holds of the last one is hidden by the position."""
        self.position[slot] = 0
        self.tails[slot] = 0

    def scrub(self, slot: int) -> None:
        """Clear a row of its ring: a hidden entry still counts when it is not a number, since 0 times NaN is NaN."""
        for layer in (*self.keys, *self.values):
            layer[slot] = 0

    @property
    def bytes_per_call(self) -> int:
        """Return what one row takes."""
        rings = sum(layer.nbytes for layer in (*self.keys, *self.values))
        return (self.position.nbytes + self.tails.nbytes + rings) // len(self.position)


def make_state(slots: int, tail_floats: int) -> State:
    """Return the state of `slots` calls that have not begun."""
    shape = (slots, HEADS, ENTRIES, HEAD_DIM)
    keys, values = ([np.zeros(shape, np.float32) for _ in range(LAYERS)] for _ in range(2))
    return State(np.zeros(slots, np.int64), np.zeros((slots, tail_floats), np.float32), keys, values)
