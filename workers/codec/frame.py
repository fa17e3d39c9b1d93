"""One frame through Mimi, either way: the step that every codec of ours computes.

A frame is 1,920 samples, or two positions of 512 channels, or 8 codes; `rows` calls go through at once as (rows, time,
channels). `Ops` is the library that computes. What reaches from one frame into the next is either the end of a
convolution's input, kept in `Tails`, or a key and a value, kept by `Ops.attend`; so a step is a function of the frame,
the tails, keys and values, and the positions.

Causal throughout: a sample, and each of the two positions, sees nothing that comes after it. Attention sees 251
positions, itself among them, as rustymimi does (measured; PyTorch's Mimi sees 250).

Source: moshi_mlx/models/mimi.py and moshi_mlx/modules/{seanet,conv,transformer,quantization}.py; its causality and its
window are rustymimi's.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from workers.checkpoints.mimi_layout import DIM, GROUPS, HEAD_DIM, HEADS, LAYERS, STRIDES
from workers.codec.weights import Array, Conv, Linear, Norm, Weights
from workers.messages import FRAME_SAMPLES, Stage

POSITIONS = 2
"""Positions of a frame, 40 ms each."""


class Ops(Protocol):
    """One library's operations for the rows of one step, beside those that arrays of numpy and MLX share.

    `cos` and `sin` are of the angles of the rows' two positions, each (rows, 2, 1, 32). `first` (rows, 1, 1) is 1 in a
    call's first frame, else 0.
    """

    cos: Array
    sin: Array
    first: Array

    def linear(self, x: Array, layer: Linear) -> Array: ...
    def elu(self, x: Array) -> Array: ...
    def gelu(self, x: Array) -> Array: ...
    def layer_norm(self, x: Array, norm: Norm) -> Array: ...
    def concat(self, parts: Sequence[Array], axis: int) -> Array: ...

    def attend(self, index: int, q: Array, k: Array, v: Array) -> Array:
        """Store keys and values of two positions in layer `index`; return the attention of the queries.

        All are (rows, 2, 8, 64), and so is what is returned; the queries are scaled already.
        """


class Tails:
    """What one frame keeps for the next, row by row end to end in one array (rows, floats).

    The step reads each tail where it needs it and writes its successor; both in the same order in every frame, so that
    no tail needs a name.
    """

    def __init__(self, ops: Ops, old: Array) -> None:
        self._ops, self._old = ops, old
        self._read = 0
        self._new: list[Array] = []

    def read(self, time: int, channels: int) -> Array:
        """Return the next tail of the last frame, (rows, time, channels); zeros at a call's beginning."""
        begin, self._read = self._read, self._read + time * channels
        return self._old[:, begin : self._read].reshape((-1, time, channels))

    def write(self, tail: Array, floats: int) -> None:
        self._new.append(tail.reshape((-1, floats)))

    def written(self) -> Array:
        return self._ops.concat(self._new, 1)


def encode(ops: Ops, weights: Weights, tails: Tails, pcm: Array) -> tuple[Array, Array]:
    """Return the codes (rows, codebooks) of frames (rows, 1920), and the latent (rows, 512) that they stand for."""
    x = conv(ops, weights["encoder.model.0"], tails, pcm.reshape((-1, FRAME_SAMPLES, 1)))
    for level in range(len(STRIDES)):
        x = residual(ops, weights, f"encoder.model.{3 * level + 1}", tails, x)
        x = conv(ops, weights[f"encoder.model.{3 * level + 3}"], tails, ops.elu(x))
    x = conv(ops, weights["encoder.model.14"], tails, ops.elu(x))
    x = transformer(ops, weights, "encoder_transformer", x)
    latent = downsample(ops, weights["downsample.conv"], tails, x)
    return quantize(ops, weights, latent), latent


def decode(ops: Ops, weights: Weights, tails: Tails, codes: Array) -> tuple[Array]:
    """Return the frames (rows, 1920) of codes (rows, 8)."""
    x = upsample(weights["upsample"], tails, dequantize(ops, weights, codes))
    x = transformer(ops, weights, "decoder_transformer", x)
    x = conv(ops, weights["decoder.model.0"], tails, x)
    for level in range(len(STRIDES)):
        x = transposed_conv(ops, weights[f"decoder.model.{3 * level + 2}"], tails, ops.elu(x))
        x = residual(ops, weights, f"decoder.model.{3 * level + 3}", tails, x)
    return (conv(ops, weights["decoder.model.14"], tails, ops.elu(x)).reshape((-1, FRAME_SAMPLES)),)


def conv(ops: Ops, layer: Conv, tails: Tails, x: Array) -> Array:
    """Return the causal convolution of x (rows, time, channels): (rows, time / stride, out)."""
    time, channels = x.shape[1:]
    past = layer.kernel - layer.stride
    if not past:
        return ops.linear(x, layer.product)
    x = ops.concat([tails.read(past, channels), x], 1)
    tails.write(x[:, time:], past * channels)
    if layer.stride == 1:
        columns = [x[:, tap : tap + time] for tap in range(layer.kernel)]
    else:
        groups = x.reshape((-1, time // layer.stride + 1, layer.stride * channels))
        columns = [groups[:, :-1], groups[:, 1:]]
    return ops.linear(ops.concat(columns, 2), layer.product)


def residual(ops: Ops, weights: Weights, name: str, tails: Tails, x: Array) -> Array:
    narrow = conv(ops, weights[f"{name}.block.1"], tails, ops.elu(x))
    return x + conv(ops, weights[f"{name}.block.3"], tails, ops.elu(narrow))


def transposed_conv(ops: Ops, layer: Conv, tails: Tails, x: Array) -> Array:
    """Return the transposed convolution of x (rows, time, channels): (rows, time · stride, out)."""
    time, width = x.shape[1], layer.tail_floats
    product = ops.linear(x, layer.product)
    now, later = product[:, :, :width], product[:, :, width:]
    carried = ops.concat([tails.read(1, width), later[:, :-1]], 1)
    tails.write(later[:, time - 1 :], width)
    return (now + carried).reshape((-1, time * layer.stride, layer.channels))


def transformer(ops: Ops, weights: Weights, name: str, x: Array) -> Array:
    for index in range(LAYERS):
        layer = f"{name}.transformer.layers.{index}"
        normed = ops.layer_norm(x, weights[f"{layer}.norm1"])
        qkv = ops.linear(normed, weights[f"{layer}.qkv"]).reshape((-1, POSITIONS, 3 * HEADS, HEAD_DIM))
        rotated, values = rotate(ops, qkv[:, :, : 2 * HEADS]), qkv[:, :, 2 * HEADS :]
        seen = ops.attend(index, rotated[:, :, :HEADS], rotated[:, :, HEADS:], values)
        x = x + ops.linear(seen.reshape((-1, POSITIONS, DIM)), weights[f"{layer}.out_proj"])
        wide = ops.linear(ops.layer_norm(x, weights[f"{layer}.norm2"]), weights[f"{layer}.linear1"])
        x = x + ops.linear(ops.gelu(wide), weights[f"{layer}.linear2"])
    return x


def rotate(ops: Ops, x: Array) -> Array:
    """Rotate queries and keys (rows, 2, heads, 64) by the angles of their positions."""
    a, b = x[:, :, :, : HEAD_DIM // 2], x[:, :, :, HEAD_DIM // 2 :]
    return ops.concat([a * ops.cos - b * ops.sin, b * ops.cos + a * ops.sin], 3)


def downsample(ops: Ops, layer: Conv, tails: Tails, x: Array) -> Array:
    """Return one position (rows, 512) for two (rows, 2, 512).

    Before a call's first position comes that position itself, repeated: Mimi pads only this convolution so.
    """
    before = tails.read(POSITIONS, DIM) + ops.first * x[:, :1]
    tails.write(x, POSITIONS * DIM)
    return ops.linear(ops.concat([before, x], 1).reshape((-1, layer.kernel * DIM)), layer.product)


def upsample(layer: Conv, tails: Tails, x: Array) -> Array:
    """Return two positions (rows, 2, 512) for one (rows, 512)."""
    x = x.reshape((-1, 1, DIM))
    before = tails.read(POSITIONS, DIM)
    tails.write(x * layer.product[POSITIONS:], POSITIONS * DIM)
    return x * layer.product[:POSITIONS] + before


def quantize(ops: Ops, weights: Weights, latent: Array) -> Array:
    """Return the codes of a latent (rows, 512) in the codebooks loaded: each one's nearest entry to the residual."""
    codes = []
    for group, codebooks in GROUPS.items():
        rest = ops.linear(latent, weights[group])
        for codebook in filter(weights.__contains__, codebooks):
            nearest = ops.linear(rest, weights[codebook].distance).argmin(axis=1)
            rest = rest - weights[codebook].entries[nearest]
            codes.append(nearest[:, None])
    return ops.concat(codes, 1)


def dequantize(ops: Ops, weights: Weights, codes: Array) -> Array:
    """Return the latent (rows, 512) that codes (rows, 8) stand for."""
    latent = 0
    for group, codebooks in GROUPS.items():
        entries = [weights[book][codes[:, book]] for book in codebooks if book in weights]
        latent = latent + ops.linear(sum(entries[1:], entries[0]), weights[group])
    return latent


FORWARD: dict[Stage, Callable[[Ops, Weights, Tails, Array], tuple[Array, ...]]] = {
    Stage.ENCODE: encode,
    Stage.DECODE: decode,
}
"""One step of some rows."""
