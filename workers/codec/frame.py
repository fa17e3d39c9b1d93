"""One frame through Mimi, either way: the step that every codec of ours computes.

Theory. A frame is 1,920 samples, or two positions of 512 channels, or 8 codes; `rows` calls go through at once as
(rows, time, channels). Nothing here knows which library computes: `ops` does, see `workers/codec/ops.py`. Whatever
reaches from one frame into the next is either the end of a convolution's input, kept in `Tails`, or a key and a value,
kept behind `ops.attend`; so a step is a function of (frame, tails, keys and values) and the positions.

Causal throughout: a sample, and each of the two positions, sees nothing that comes after it. Attention sees 251
positions, itself among them, as rustymimi does (measured; PyTorch's Mimi sees 250).

Source: moshi_mlx/models/mimi.py and moshi_mlx/modules/{seanet,conv,transformer,quantization}.py; its causality and its
window are rustymimi's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.codec.ops import Ops
from workers.codec.tails import Tails
from workers.codec.weights import (
    DIM,
    HEAD_DIM,
    HEADS,
    Conv,
    DecoderWeights,
    EncoderWeights,
    Layer,
    Quantizer,
    Residual,
    Spread,
)
from workers.messages import CODEBOOKS, FRAME_SAMPLES

Array = Any

POSITIONS = 2
"""Positions of a frame, 40 ms each."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows stand: cosines and sines of their two positions' angles, each (rows, 2, 1, 32), and whether this
    is a call's first frame, 1 or 0, (rows, 1, 1)."""

    cos: Array
    sin: Array
    fresh: Array


Forward = Callable[[Ops, Any, Tails, Place, Array], tuple[Array, ...]]
"""`encode` or `decode`: one step of some rows."""


def forward_of(weights: EncoderWeights | DecoderWeights) -> Forward:
    """Return the direction that these weights are for."""
    return encode if isinstance(weights, EncoderWeights) else decode


def nothing_for(weights: EncoderWeights | DecoderWeights, rows: int) -> NDArray[Any]:
    """Return frames of silence, or of codes that are all 0, whichever these weights take."""
    if isinstance(weights, EncoderWeights):
        return np.zeros((rows, FRAME_SAMPLES), np.float32)
    return np.zeros((rows, CODEBOOKS), np.int32)


def encode(ops: Ops, weights: EncoderWeights, tails: Tails, place: Place, pcm: Array) -> tuple[Array, Array]:
    """Return the codes (rows, 8) of frames (rows, 1920), and the latent (rows, 512) that they stand for."""
    x = conv(ops, weights.first, tails, ops.reshape(pcm, (-1, FRAME_SAMPLES, 1)))
    for block, shrink in weights.levels:
        x = conv(ops, shrink, tails, ops.elu(residual(ops, block, tails, x)))
    x = conv(ops, weights.last, tails, ops.elu(x))
    for index, layer in enumerate(weights.layers):
        x = attention_layer(ops, layer, index, place, x)
    latent = downsample(ops, weights.down, tails, place, x)
    return quantize(ops, weights.quantizers, latent), latent


def decode(ops: Ops, weights: DecoderWeights, tails: Tails, place: Place, codes: Array) -> tuple[Array]:
    """Return the frames (rows, 1920) of codes (rows, 8)."""
    x = upsample(ops, weights, tails, look_up(ops, weights, codes))
    for index, layer in enumerate(weights.layers):
        x = attention_layer(ops, layer, index, place, x)
    x = conv(ops, weights.first, tails, x)
    for grow, block in weights.levels:
        x = residual(ops, block, tails, spread(ops, grow, tails, ops.elu(x)))
    return (ops.reshape(conv(ops, weights.last, tails, ops.elu(x)), (-1, FRAME_SAMPLES)),)


def conv(ops: Ops, layer: Conv, tails: Tails, x: Array) -> Array:
    """Return what a causal convolution makes of x (rows, time, channels): (rows, time / stride, out)."""
    time, channels = x.shape[1:]
    past = layer.kernel - layer.stride
    if not past:
        return ops.linear(x, layer.product)
    x = ops.concat([tails.take(past, channels), x], 1)
    tails.keep(x[:, time:], past * channels)
    if layer.stride == 1:
        columns = [x[:, tap : tap + time] for tap in range(layer.kernel)]
    else:
        groups = ops.reshape(x, (-1, time // layer.stride + 1, layer.stride * channels))
        columns = [groups[:, :-1], groups[:, 1:]]
    return ops.linear(ops.concat(columns, 2), layer.product)


def residual(ops: Ops, block: Residual, tails: Tails, x: Array) -> Array:
    """Return x plus what its block makes of it, the same shape."""
    narrow = conv(ops, block.narrow, tails, ops.elu(x))
    return x + conv(ops, block.widen, tails, ops.elu(narrow))


def spread(ops: Ops, layer: Spread, tails: Tails, x: Array) -> Array:
    """Return what a transposed convolution makes of x (rows, time, channels): (rows, time · stride, out)."""
    time, width = x.shape[1], layer.tail_floats
    product = ops.linear(x, layer.product)
    now, later = product[:, :, :width], product[:, :, width:]
    carried = ops.concat([tails.take(1, width), later[:, :-1]], 1)
    tails.keep(later[:, time - 1 :], width)
    return ops.reshape(now + carried, (-1, time * layer.stride, layer.channels))


def attention_layer(ops: Ops, layer: Layer, index: int, place: Place, x: Array) -> Array:
    """Return what layer number `index` of a transformer makes of two positions (rows, 2, 512)."""
    qkv = ops.linear(ops.layer_norm(x, layer.before_attention), layer.qkv)
    qkv = ops.reshape(qkv, (-1, POSITIONS, 3 * HEADS, HEAD_DIM))
    turned, values = rotate(ops, qkv[:, :, : 2 * HEADS], place), qkv[:, :, 2 * HEADS :]
    seen = ops.attend(index, turned[:, :, :HEADS], turned[:, :, HEADS:], values)
    x = x + ops.linear(ops.reshape(seen, (-1, POSITIONS, DIM)), layer.attended)
    fed = ops.gelu(ops.linear(ops.layer_norm(x, layer.before_feed_forward), layer.feed))
    return x + ops.linear(fed, layer.forward)


def rotate(ops: Ops, x: Array, place: Place) -> Array:
    """Turn queries and keys (rows, 2, heads, 64) by the angles of their positions."""
    cos, sin = place.cos, place.sin
    a, b = x[:, :, :, : HEAD_DIM // 2], x[:, :, :, HEAD_DIM // 2 :]
    return ops.concat([a * cos - b * sin, b * cos + a * sin], 3)


def downsample(ops: Ops, layer: Conv, tails: Tails, place: Place, x: Array) -> Array:
    """Return one position (rows, 512) for two (rows, 2, 512).

    Before a call there is nothing but its own first position, repeated: Mimi pads this one convolution so.
    """
    before = tails.take(POSITIONS, DIM) + place.fresh * x[:, :1]
    tails.keep(x, POSITIONS * DIM)
    return ops.linear(ops.reshape(ops.concat([before, x], 1), (-1, layer.kernel * DIM)), layer.product)


def upsample(ops: Ops, weights: DecoderWeights, tails: Tails, x: Array) -> Array:
    """Return two positions (rows, 2, 512) for one (rows, 512): a transposed convolution, each channel by itself."""
    x = ops.reshape(x, (-1, 1, DIM))
    before = tails.take(POSITIONS, DIM)
    tails.keep(x * weights.up[POSITIONS:], POSITIONS * DIM)
    return x * weights.up[:POSITIONS] + before


def quantize(ops: Ops, quantizers: tuple[Quantizer, ...], latent: Array) -> Array:
    """Return the codes (rows, 8) of a latent (rows, 512): each codebook's nearest entry to what is left."""
    codes = []
    for quantizer in quantizers:
        rest = ops.linear(latent, quantizer.project)
        for book in quantizer.books:
            codes.append(ops.smallest(ops.linear(rest, book.distance)))
            rest = rest - ops.take(book.entries, codes[-1])
    return ops.stack(codes)


def look_up(ops: Ops, weights: DecoderWeights, codes: Array) -> Array:
    """Return the latent (rows, 512) that codes (rows, 8) stand for."""
    latent, first = None, 0
    for tables, project in weights.tables:
        entries = [ops.take(table, codes[:, first + index]) for index, table in enumerate(tables)]
        part = ops.linear(sum(entries[1:], entries[0]), project)
        latent, first = part if latent is None else latent + part, first + len(tables)
    return latent
