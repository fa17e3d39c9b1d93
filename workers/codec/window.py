"""Where a call stands: the angles of its positions and what its attention may see.

Theory. A ring of 252 entries a layer. A frame at position p (its two positions are p and p + 1) first writes entries p
and p + 1 modulo 252; then the ring holds p - 250 to p + 1. Position p must not see p + 1, and p + 1 must not see
p - 250: each sees 251, which is rustymimi's window. Entries that were never written since the call began are hidden
too, so that a ring need not be cleared for a new call. Rotary positions are relative, so entries need no order.

Angles are taken modulo a full turn in float64, before they become float32: exact for any length of a call, while
float32 products (rustymimi's) are off by 2⁻²⁴ of the angle, 0.01 after two hours.
"""

import numpy as np
from numpy.typing import NDArray

from workers.codec.tensors import F32
from workers.codec.weights import HEAD_DIM

ENTRIES = 252
"""Keys and values a layer keeps of a call; even, so that the two of a frame lie side by side."""
_NEVER = np.float32(-1e30)
_BASE = 10_000.0
_FREQUENCIES = _BASE ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)

Positions = NDArray[np.int64]
"""How many positions of 40 ms each row has behind it: two a frame."""


def turn(position: Positions) -> tuple[F32, F32]:
    """Return cosines and sines, each (rows, 2, 1, 32), of the two positions that begin at `position` (rows,)."""
    positions = position[:, None] + np.arange(2)
    angles = positions[:, :, None, None] * _FREQUENCIES % (2 * np.pi)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def hidden(position: Positions) -> F32:
    """Return what to add to scores so that each position sees what it may: (rows, 1, 2, 252), 0 or -1e30."""
    newest = position[:, None] + 1
    age = (newest - np.arange(ENTRIES)) % ENTRIES
    unwritten = age > newest
    masks = np.stack([unwritten | (age == 0), unwritten | (age == ENTRIES - 1)], axis=1)
    return np.where(masks, _NEVER, np.float32(0))[:, None]
