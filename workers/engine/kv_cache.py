"""The keys and values of the last `context` steps, for every row.

Step p of a row writes entry p modulo `context` and then reads every entry that holds one of its last `context` steps:
all of them once it is past the first round, entries 0..p before. Rotary positions are relative, so the entries need no
order. The arrays are allocated once and written in place: mlx reuses the buffer when nobody else holds it.

A row that sits out a step is computed along (shapes stay fixed) at its unchanged position. What it writes is
overwritten by its next real step before that reads: with exactly `context` entries the old content of that entry has
just left the window.
"""

from dataclasses import dataclass

import mlx.core as mx

SMALLEST_WINDOW = 256
Rows = tuple[mx.array, mx.array]
"""Row and entry to write, each (rows,)."""


@dataclass(slots=True)
class KVCache:
    """One array of shape (slots, heads, context, head_dim) a layer, for keys and for values."""

    keys: list[mx.array]
    values: list[mx.array]

    @classmethod
    def allocate(cls, layers: int, heads: int, head_dim: int, dtype: mx.Dtype, slots: int, context: int) -> "KVCache":
        shape = (slots, heads, context, head_dim)
        cache = cls([mx.zeros(shape, dtype) for _ in range(layers)], [mx.zeros(shape, dtype) for _ in range(layers)])
        mx.eval(cache.keys, cache.values)
        return cache

    @property
    def context(self) -> int:
        return int(self.keys[0].shape[2])

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in (*self.keys, *self.values))

    def rows(self, position: mx.array) -> Rows:
        """Return where each row writes at its position, (rows,)."""
        return mx.arange(position.size), position % self.context

    def append(self, layer: int, at: Rows, k: mx.array, v: mx.array, window: int) -> tuple[mx.array, mx.array]:
        """Write one entry a row, (rows, heads, 1, head_dim); return the first `window` entries of those rows."""
        rows, entry = at
        self.keys[layer][rows, :, entry] = k[:, :, 0]
        self.values[layer][rows, :, entry] = v[:, :, 0]
        return self.keys[layer][: rows.size, :, :window], self.values[layer][: rows.size, :, :window]

    def prefill(self, layer: int, slot: int, start: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Write steps start, start+1, … of one slot, (1, heads, steps, head_dim).

        Returns the slot's entries as they were before, followed by the new ones.
        """
        entries = mx.arange(start, start + k.shape[2]) % self.context
        rows = mx.full(entries.shape, slot, mx.int32)
        before = self.keys[layer][slot : slot + 1], self.values[layer][slot : slot + 1]
        joined = mx.concatenate([before[0], k], axis=2), mx.concatenate([before[1], v], axis=2)
        mx.eval(joined)
        del before  # a view that is still held would make the next lines copy the cache
        self.keys[layer][rows, :, entries] = k[0].swapaxes(0, 1)
        self.values[layer][rows, :, entries] = v[0].swapaxes(0, 1)
        return joined

    def copy(self, slot: int, prefix: "KVCache") -> None:
        """Begin a slot with the entries of `prefix`, a cache of one row; evaluated on return."""
        for mine, theirs in zip((*self.keys, *self.values), (*prefix.keys, *prefix.values), strict=True):
            mine[slot : slot + 1, :, : prefix.context] = theirs
        mx.eval(self.keys, self.values)

    def zero(self, slot: int) -> None:
        """Clear one row that holds NaN: a masked entry still counts then, since 0 times NaN is NaN."""
        for layer in (*self.keys, *self.values):
            layer[slot] = 0


def window_sizes(context: int) -> list[int]:
    """Return how many entries steps may read: few sizes, so that few graphs are made."""
    sizes = [SMALLEST_WINDOW]
    while sizes[-1] < context:
        sizes.append(2 * sizes[-1])
    return [min(size, context) for size in sizes]


def window_size(position: int, context: int) -> int:
    """Return how many entries to read when the furthest row is at `position`."""
    return next(size for size in window_sizes(context) if position < size or size == context)


def visible(position: mx.array, window: int) -> mx.array:
    """Return which of the first `window` entries each row may read, shape (rows, 1, 1, window)."""
    return (mx.arange(window)[None] <= position[:, None])[:, None, None, :]


def visible_in_prefill(start: int, steps: int, context: int) -> mx.array:
    """Return which of the entries that `KVCache.prefill` returns each step may read, (1, 1, steps, context + steps).

    Before the first of them, entry e holds the youngest position below `start` that is e modulo `context`.
    """
    older = start - 1 - (start - 1 - mx.arange(context)) % context
    position = mx.arange(start, start + steps)
    held = mx.concatenate([older, position])[None]
    lag = position[:, None] - held
    return ((held >= 0) & (lag >= 0) & (lag < context))[None, None]
