"""Mimi's weights as the step wants them: every layer as matrices that samples are multiplied with.

Theory. Samples lie as (rows, time, channels). A convolution of kernel K over `channels` is a product of the last K
samples, end to end, with a matrix (K · channels, out). Mimi's strided convolutions have K = 2 · stride, so they are
products over pairs of neighbouring groups of `stride` samples; its transposed ones, K = 2 · stride too, make `stride`
samples of now and `stride` that are added to what comes next. `prepare` reads all this from a file.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from workers.codec.tensors import F32

Array = Any
"""An array of numpy, of MLX: whichever library computes with these weights."""

STRIDES = (4, 5, 6, 8)
"""Of the encoder, first to last; the decoder's are the other way round."""
CHANNELS = (64, 128, 256, 512, 1024)
DIM = 512
"""Channels of a position, of which a frame has two."""
HEADS = 8
HEAD_DIM = DIM // HEADS
LAYERS = 8
FEED_FORWARD = 2_048
CODES = 2_048
CODE_DIM = 256


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ weight + bias; weight is (in, out), bias (out,) or None."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation; both (512,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Conv:
    """A causal convolution: the product takes `kernel` samples end to end and moves on by `stride`."""

    product: Linear
    channels: int
    kernel: int
    stride: int = 1

    @property
    def tail_floats(self) -> int:
        """Return how much of one frame's input the next frame needs."""
        return (self.kernel - self.stride) * self.channels


@dataclass(frozen=True, slots=True)
class Spread:
    """A transposed convolution: the product makes `stride` samples of now, then `stride` to add to the next ones."""

    product: Linear
    channels: int
    stride: int

    @property
    def tail_floats(self) -> int:
        """Return how much of one frame's output belongs into the next frame."""
        return self.stride * self.channels


@dataclass(frozen=True, slots=True)
class Residual:
    """Two convolutions around which the input is carried."""

    narrow: Conv
    widen: Conv

    @property
    def tail_floats(self) -> int:
        return self.narrow.tail_floats + self.widen.tail_floats


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a transformer; `qkv` is (512, 3 · 512): queries, keys, values."""

    before_attention: Norm
    qkv: Linear
    attended: Linear
    before_feed_forward: Norm
    feed: Linear
    forward: Linear


@dataclass(frozen=True, slots=True)
class Book:
    """One codebook: its entries (2048, 256), and a product that gives half the squared distance to each, up to a term
    that is the same for all."""

    entries: Array
    distance: Linear


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Codebooks that share one projection, each coding what the one before left over."""

    project: Linear
    books: tuple[Book, ...]


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """A frame's way to codes, from top to bottom."""

    first: Conv
    levels: tuple[tuple[Residual, Conv], ...]
    last: Conv
    layers: tuple[Layer, ...]
    down: Conv
    quantizers: tuple[Quantizer, ...]

    @property
    def tail_floats(self) -> int:
        """Return the floats a call that reach from one frame into the next, attention apart."""
        levels = (part for level in self.levels for part in level)
        return sum(part.tail_floats for part in (self.first, *levels, self.last, self.down))


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """Codes' way to a frame, from top to bottom; `tables` are (entries of each codebook, their projection) pairs.

    `up` is (4, 512): each position becomes two of now and two to add to the next.
    """

    tables: tuple[tuple[tuple[Array, ...], Linear], ...]
    up: Array
    layers: tuple[Layer, ...]
    first: Conv
    levels: tuple[tuple[Spread, Residual], ...]
    last: Conv

    @property
    def tail_floats(self) -> int:
        """Return the floats a call that reach from one frame into the next, attention apart."""
        levels = (part for level in self.levels for part in level)
        return 2 * DIM + sum(part.tail_floats for part in (self.first, *levels, self.last))


def converted(part: Any, linear: Callable[[Linear], Linear], array: Callable[[F32], Array] = np.asarray) -> Any:
    """Return weights with every `Linear` and every other array in them made into something else."""
    match part:
        case Linear():
            return linear(part)
        case np.ndarray():
            return array(part)
        case tuple():
            return tuple(converted(one, linear, array) for one in part)
        case int():
            return part
    return replace(part, **{field.name: converted(getattr(part, field.name), linear, array) for field in fields(part)})


def weight_bytes(weights: EncoderWeights | DecoderWeights) -> int:
    """Return what one frame reads: every matrix, and of tables that are only looked up next to nothing."""
    total = 0

    def add(linear: Linear) -> Linear:
        nonlocal total
        total += linear.weight.nbytes
        return linear

    converted(weights, add)
    return total
