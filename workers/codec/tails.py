"""The ends of convolutions' inputs, which reach into the next frame."""

from typing import Any

from workers.codec.ops import Ops

Array = Any


class Tails:
    """What one frame keeps for the next, row by row end to end in one array (rows, floats).

    The step takes each tail where it needs it and keeps its successor; both in the same order in every frame, so that
    no tail needs a name.
    """

    def __init__(self, ops: Ops, kept: Array) -> None:
        self._ops = ops
        self._old = kept
        self._taken = 0
        self._new: list[Array] = []

    def take(self, time: int, channels: int) -> Array:
        """Return the next tail of the last frame, (rows, time, channels); zeros at a call's beginning."""
        begin, self._taken = self._taken, self._taken + time * channels
        return self._ops.reshape(self._old[:, begin : self._taken], (-1, time, channels))

    def keep(self, tail: Array, floats: int) -> None:
        """Keep as many floats a row for the next frame."""
        self._new.append(self._ops.reshape(tail, (-1, floats)))

    def kept(self) -> Array:
        """Return all that was kept, as the next frame wants it."""
        return self._ops.concat(self._new, 1)
