"""Mimi's weights as the step wants them: every layer as matrices that samples are multiplied with.

Samples lie as (rows, time, channels). A convolution of kernel K over `channels` is a product of the last K samples, end
to end, with a matrix (K · channels, out). Mimi's strided convolutions have K = 2 · stride, so they are products over
pairs of neighbouring groups of `stride` samples; its transposed ones, K = 2 · stride too, make `stride` samples of now
and `stride` that are added to what comes next. `prepare` reads all this from a file.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import DIM

F32 = NDArray[np.float32]
Array = Any
"""An array of numpy or of MLX: whichever library computes with these weights."""


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
        """How much of one frame's input the next frame needs."""
        return (self.kernel - self.stride) * self.channels


@dataclass(frozen=True, slots=True)
class TransposedConv:
    """The product makes `stride` samples of now, then `stride` to add to the next ones."""

    product: Linear
    channels: int
    stride: int

    @property
    def tail_floats(self) -> int:
        """How much of one frame's output belongs into the next frame."""
        return self.stride * self.channels


@dataclass(frozen=True, slots=True)
class Residual:
    """Two convolutions whose result is added to their input."""

    narrow: Conv
    widen: Conv

    @property
    def tail_floats(self) -> int:
        return self.narrow.tail_floats + self.widen.tail_floats


@dataclass(frozen=True, slots=True)
class TransformerWeights:
    """One layer; `qkv` is (512, 3 · 512): queries, keys, values."""

    norm1: Norm
    qkv: Linear
    attention_out: Linear
    norm2: Norm
    linear1: Linear
    linear2: Linear


@dataclass(frozen=True, slots=True)
class Codebook:
    """Its entries (2048, 256), and a product that gives half the squared distance to each, up to a common term."""

    entries: Array
    distance: Linear


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Codebooks that share one projection, each coding the residual of the one before."""

    project: Linear
    codebooks: tuple[Codebook, ...]


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """From a frame to codes, in the order in which they are used."""

    first: Conv
    levels: tuple[tuple[Residual, Conv], ...]
    last: Conv
    layers: tuple[TransformerWeights, ...]
    downsample: Conv
    quantizers: tuple[Quantizer, ...]

    @property
    def tail_floats(self) -> int:
        """The floats a call that reach from one frame into the next, attention apart."""
        levels = (part for level in self.levels for part in level)
        return sum(part.tail_floats for part in (self.first, *levels, self.last, self.downsample))


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """From codes to a frame; `tables` are (entries of each codebook, their projection) pairs.

    `upsample` is (4, 512): each position becomes two of now and two to add to the next.
    """

    tables: tuple[tuple[tuple[Array, ...], Linear], ...]
    upsample: Array
    layers: tuple[TransformerWeights, ...]
    first: Conv
    levels: tuple[tuple[TransposedConv, Residual], ...]
    last: Conv

    @property
    def tail_floats(self) -> int:
        """The floats a call that reach from one frame into the next, attention apart."""
        levels = (part for level in self.levels for part in level)
        return 2 * DIM + sum(part.tail_floats for part in (self.first, *levels, self.last))


def converted(part: Any, linear: Callable[[Linear], Linear], array: Callable[[F32], Array] = np.asarray) -> Any:
    """Return weights with `linear` applied to every `Linear` in them, and `array` to every other array."""
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
