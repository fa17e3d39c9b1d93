"""What one direction of the codec remembers of its calls, one row a slot, and where a call is in it.

It never grows, whatever the length of a call: 7.9 MiB of keys and values and some 50 to 90 KiB of tails.

Keys and values lie in a ring of 252 entries a layer. A frame at position p (its two positions are p and p + 1) first
writes entries p and p + 1 modulo 252; then the ring holds p - 250 to p + 1. Position p must not see p + 1, and p + 1
must not see p - 250: each sees 251, which is rustymimi's window. Entries that were not written since the call began are
masked too, so that a ring need not be cleared for a new call. Rotary positions are relative, so entries need no order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import HEAD_DIM, HEADS, LAYERS
from workers.codec.tensors import F32
from workers.codec.weights import Array

ENTRIES = 252
"""Keys and values a layer keeps of a call; even, so that the two of a frame lie side by side."""
_MASKED = np.float32(-1e30)
_FREQUENCIES = 10_000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)

Rows = NDArray[np.intp]
"""The slots that advance in a step, each once."""
Positions = NDArray[np.int64]
"""How many positions of 40 ms each row has behind it: two a frame."""


@dataclass(slots=True)
class CodecState:
    """`position` (slots,), `tails` (slots, floats), and for each layer `keys` and `values` (slots, 8, 252, 64).

    `tails` are the ends of convolutions' inputs that the next frame needs, end to end.
    """

    position: Positions
    tails: Array
    keys: list[Array]
    values: list[Array]

    @classmethod
    def allocate(cls, slots: int, tail_floats: int, zeros: Callable[[tuple[int, ...]], Array]) -> "CodecState":
        """Return the state of `slots` calls that have not begun; `zeros` makes an array of float32."""
        shape = (slots, HEADS, ENTRIES, HEAD_DIM)
        keys, values = ([zeros(shape) for _ in range(LAYERS)] for _ in range(2))
        return cls(np.zeros(slots, np.int64), zeros((slots, tail_floats)), keys, values)

    @property
    def bytes_per_call(self) -> int:
        arrays = (self.position, self.tails, *self.keys, *self.values)
        return sum(int(array.nbytes) for array in arrays) // len(self.position)

    def open(self, slot: int) -> None:
        """Begin a call in this row: the position masks what the ring holds of the last one."""
        self.position[slot] = 0
        self.tails[slot] = 0

    def zero(self, slot: int) -> None:
        """Clear a row that holds NaN: a masked entry still counts then, since 0 times NaN is NaN."""
        for layer in (*self.keys, *self.values):
            layer[slot] = 0


def rotation(position: Positions) -> tuple[F32, F32]:
    """Return cosines and sines, each (rows, 2, 1, 32), of the two positions that begin at `position` (rows,).

    Angles are taken modulo a full turn in float64: exact for any length of a call, while float32 products (rustymimi's)
    are off by 2⁻²⁴ of the angle, 0.01 after two hours.
    """
    positions = position[:, None] + np.arange(2)
    angles = positions[:, :, None, None] * _FREQUENCIES % (2 * np.pi)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def attention_mask(position: Positions) -> F32:
    """Return what to add to scores so that each position sees what it may: (rows, 1, 2, 252), 0 or -1e30."""
    newest = position[:, None] + 1
    age = (newest - np.arange(ENTRIES)) % ENTRIES
    unwritten = age > newest
    masks = np.stack([unwritten | (age == 0), unwritten | (age == ENTRIES - 1)], axis=1)
    return np.where(masks, _MASKED, np.float32(0))[:, None]
