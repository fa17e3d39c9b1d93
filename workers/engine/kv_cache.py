"""The keys and values of the last `context` steps, for every row.

Theory. Step p of a row writes entry p modulo `context` and then reads every entry that holds one of its last `context`
steps: all of them once it is past the first round, entries 0..p before. Rotary positions are relative, so the entries
need no order. The ring is allocated once and written in place: `mx` gives the buffer on when nobody else holds it.

A row that sits out a step is computed along (shapes stay fixed), at its unchanged position: what it writes lands in the
very entry which its next real step overwrites before reading. A ring of exactly `context` entries makes that harmless,
since the entry's old content has just left the window.
"""

from dataclasses import dataclass

import mlx.core as mx

SMALLEST_WINDOW = 256

Place = tuple[mx.array, mx.array]
"""Row and entry to write, each (rows,)."""


@dataclass(slots=True)
class Ring:
    """One array of shape (slots, heads, context, head_dim) a layer, for keys and for values."""

    keys: list[mx.array]
    values: list[mx.array]

    @property
    def context(self) -> int:
        """Return the number of entries."""
        return int(self.keys[0].shape[2])

    def layers(self) -> tuple[list[mx.array], list[mx.array]]:
        """Return keys and values of all layers."""
        return self.keys, self.values

    def turn(self, layer: int, place: Place, k: mx.array, v: mx.array, size: int) -> tuple[mx.array, mx.array]:
        """Write one entry a row, (rows, heads, 1, head_dim); return the first `size` entries of those rows."""
        rows, entry = place
        self.keys[layer][rows, :, entry] = k[:, :, 0]
        self.values[layer][rows, :, entry] = v[:, :, 0]
        return self.keys[layer][: rows.size, :, :size], self.values[layer][: rows.size, :, :size]

    def extend(self, layer: int, slot: int, start: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Write steps start, start+1, … of one slot, (1, heads, steps, head_dim); return its ring before, then they."""
        entries = mx.arange(start, start + k.shape[2]) % self.context
        rows = mx.full(entries.shape, slot, mx.int32)
        row = self.keys[layer][slot : slot + 1], self.values[layer][slot : slot + 1]
        joined = mx.concatenate([row[0], k], axis=2), mx.concatenate([row[1], v], axis=2)
        mx.eval(joined)  # and so let go of the ring, or the next line would copy it
        del row
        self.keys[layer][rows, :, entries] = k[0].swapaxes(0, 1)
        self.values[layer][rows, :, entries] = v[0].swapaxes(0, 1)
        return joined

    def scrub(self, slot: int) -> None:
        """Clear one row: a masked entry still counts when it is not a number, since 0 times NaN is NaN."""
        for layer in (*self.keys, *self.values):
            layer[slot] = 0


def make_ring(slots: int, layers: int, heads: int, context: int, head_dim: int, dtype: mx.Dtype) -> Ring:
    """Allocate an empty ring."""
    shape = (slots, heads, context, head_dim)
    ring = Ring([mx.zeros(shape, dtype) for _ in range(layers)], [mx.zeros(shape, dtype) for _ in range(layers)])
    mx.eval(ring.keys, ring.values)
    return ring


def windows(context: int) -> list[int]:
    """Return the numbers of entries that steps may look at: few, so that few graphs are made."""
    sizes = [SMALLEST_WINDOW]
    while sizes[-1] < context:
        sizes.append(2 * sizes[-1])
    return [min(size, context) for size in sizes]


def window(position: int, context: int) -> int:
    """Return how many entries to look at when the furthest row is at `position`."""
    return next(size for size in windows(context) if position < size or size == context)


def place(position: mx.array, context: int) -> Place:
    """Return where each row writes at its position, (rows,)."""
    return mx.arange(position.size), position % context


def visible(position: mx.array, size: int) -> mx.array:
    """Return which of the first `size` entries a row may read, shape (rows, 1, 1, size)."""
    return (mx.arange(size)[None] <= position[:, None])[:, None, None, :]


def visible_to_many(start: int, steps: int, context: int) -> mx.array:
    """Return what each of several successive steps may read of `Ring.extend`'s entries, (1, 1, steps, context + steps).

    Before the first of them, entry e holds the youngest position below `start` that is e modulo `context`.
    """
    older = start - 1 - (start - 1 - mx.arange(context)) % context
    position = mx.arange(start, start + steps)
    held = mx.concatenate([older, position])[None]
    lag = position[:, None] - held
    return ((held >= 0) & (lag >= 0) & (lag < context))[None, None]
