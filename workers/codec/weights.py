"""Mimi's weights as the step wants them: every layer as matrices that samples are multiplied with.

Samples lie as (rows, time, channels). A convolution of kernel K over `channels` is a product of the last K samples, end
to end, with a matrix (K · channels, out). Mimi's strided convolutions have K = 2 · stride, so they are products over
pairs of neighbouring groups of `stride` samples; its transposed ones, K = 2 · stride too, make `stride` samples of now
and `stride` that are added to what comes next.

Scales that only multiply are folded into matrices: layer scales and attention's 1/8. A rotation turns one half of a
head's channels against the other, so queries and keys come with the even channels first, then the odd ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import DIM, HEAD_DIM, HEADS, SHAPES, codebook_name
from workers.codec.tensors import F32, Tensors
from workers.messages import CODEBOOKS, Stage

Array = Any
"""An array of numpy or of MLX: whichever library computes with these weights."""
Weights = dict[str | int, Any]
"""The layers of one direction by the names of their modules in PyTorch's Mimi; codebooks by number."""


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
    """A causal convolution, or one of its transposes; `tail_floats` reach from one frame into the next.

    A convolution's tail is the end of its input; `channels` are those of its input. The product of a transposed one
    makes `stride` samples of now, then `stride` to add to the next ones: its tail; `channels` are those of its output.
    `upsample`, one of each channel by itself, has an array (4, 512) in place of the product.
    """

    product: Any
    channels: int
    kernel: int
    stride: int

    @property
    def tail_floats(self) -> int:
        return (self.kernel - self.stride) * self.channels


@dataclass(frozen=True, slots=True)
class Codebook:
    """Its entries (2048, 256), and a product that gives half the squared distance to each, up to a common term."""

    entries: Array
    distance: Linear


def load(stage: Stage, path: Path, codebooks: int = CODEBOOKS) -> Weights:
    """Return one direction from Mimi's safetensors file, float32 or bfloat16. Raises WeightsError."""
    tensors = Tensors(path)
    entries = {codebook: _entries(tensors, codebook) for codebook in range(codebooks)}
    if stage is Stage.ENCODE:
        layers = _layers(tensors, "encoder", "downsample") | _projections(tensors, "input_proj")
        distances = {book: Linear(_copied(-each.T), (each * each).sum(axis=1) / 2) for book, each in entries.items()}
        return layers | {book: Codebook(each, distances[book]) for book, each in entries.items()}
    upsample = Conv(_copied(tensors["upsample.convtr.convtr.convtr.weight"][:, 0].T), DIM, 4, 2)
    return _layers(tensors, "decoder") | {"upsample": upsample} | _projections(tensors, "output_proj") | entries


def tail_floats(weights: Weights) -> int:
    """Return the floats a call that reach from one frame into the next, attention apart."""
    return sum(getattr(part, "tail_floats", 0) for part in weights.values())


def converted(part: Any, linear: Callable[[Linear], Linear], array: Callable[[F32], Array] = np.asarray) -> Any:
    """Return weights with `linear` applied to every `Linear` in them, and `array` to every other array."""
    match part:
        case Linear():
            return linear(part)
        case np.ndarray():
            return array(part)
        case dict():
            return {name: converted(one, linear, array) for name, one in part.items()}
        case int():
            return part
    return replace(part, **{field.name: converted(getattr(part, field.name), linear, array) for field in fields(part)})


def _copied(array: NDArray[Any]) -> F32:
    return np.array(array, np.float32, order="C")


def _linear(weight: NDArray[Any]) -> Linear:
    """Return a product for a weight (out, in)."""
    return Linear(_copied(weight.T))


def _layers(tensors: Tensors, *sides: str) -> Weights:
    """Return the convolutions and transformer layers of these modules."""
    weights: Weights = {}
    for name in SHAPES:
        if not name.startswith(sides):
            continue
        if name.endswith(".conv.conv.weight"):
            weights[name.removesuffix(".conv.conv.weight")] = _conv(tensors, name)
        elif name.endswith(".convtr.convtr.weight"):
            weights[name.removesuffix(".convtr.convtr.weight")] = _transposed_conv(tensors, name)
        elif name.endswith(".self_attn.in_proj_weight"):
            weights |= _transformer_layer(tensors, name.removesuffix(".self_attn.in_proj_weight"))
    return weights


def _conv(tensors: Tensors, name: str) -> Conv:
    weight, bias = tensors[name], name.replace("weight", "bias")
    out, channels, kernel = weight.shape
    matrix = _copied(weight.transpose(2, 1, 0)).reshape(kernel * channels, out)
    stride = 1 if kernel % 2 else kernel // 2
    return Conv(Linear(matrix, tensors[bias] if bias in SHAPES else None), channels, kernel, stride)


def _transposed_conv(tensors: Tensors, name: str) -> Conv:
    weight = tensors[name]
    channels, out, kernel = weight.shape
    bias = np.tile(tensors[name.replace("weight", "bias")], kernel // 2)
    matrix = _copied(weight.transpose(0, 2, 1)).reshape(channels, kernel * out)
    return Conv(Linear(matrix, np.concatenate([bias, np.zeros_like(bias)])), out, kernel, kernel // 2)


def _transformer_layer(tensors: Tensors, name: str) -> Weights:
    even_first = np.arange(DIM).reshape(HEADS, HEAD_DIM // 2, 2).transpose(0, 2, 1).reshape(-1)
    queries, keys, values = np.split(tensors[f"{name}.self_attn.in_proj_weight"], 3)
    queries = queries[even_first] * np.float32(HEAD_DIM**-0.5)
    scales = [tensors[f"{name}.layer_scale_{part}.scale"][:, None] for part in (1, 2)]
    norms: Weights = {
        f"{name}.{norm}": Norm(tensors[f"{name}.{norm}.weight"], tensors[f"{name}.{norm}.bias"])
        for norm in ("norm1", "norm2")
    }
    return norms | {
        f"{name}.qkv": _linear(np.concatenate([queries, keys[even_first], values])),
        f"{name}.out_proj": _linear(tensors[f"{name}.self_attn.out_proj.weight"] * scales[0]),
        f"{name}.linear1": _linear(tensors[f"{name}.linear1.weight"]),
        f"{name}.linear2": _linear(tensors[f"{name}.linear2.weight"] * scales[1]),
    }


def _projections(tensors: Tensors, way: str) -> Weights:
    return {group: _linear(tensors[f"quantizer.{group}.{way}.weight"][:, :, 0]) for group in ("rvq_first", "rvq_rest")}


def _entries(tensors: Tensors, codebook: int) -> F32:
    name = codebook_name(codebook)
    usage = np.maximum(tensors[f"{name}.cluster_usage"], np.float32(1e-5))
    return _copied(tensors[f"{name}.embedding_sum"] / usage[:, None])
