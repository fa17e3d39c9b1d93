"""Mimi's weights from its checkpoint, prepared once.

Theory. Scales that only multiply are folded into matrices: layer scales and attention's 1/8. A rotation turns one half
of a head's channels against the other, so queries and keys come with the even channels first, then the odd ones.

Names and layout of the tensors: moshi_mlx.models.mimi.Mimi.load_pytorch_weights. Of a file's codebooks, up to 32, the
first 8 are read.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.codec.tensors import F32, Tensors
from workers.codec.weights import (
    CHANNELS,
    CODE_DIM,
    CODES,
    DIM,
    FEED_FORWARD,
    HEAD_DIM,
    HEADS,
    LAYERS,
    STRIDES,
    Book,
    Conv,
    DecoderWeights,
    EncoderWeights,
    Layer,
    Linear,
    Norm,
    Quantizer,
    Residual,
    Spread,
)
from workers.messages import CODEBOOKS


def load_encoder(path: Path) -> EncoderWeights:
    """Prepare the caller's direction from Mimi's safetensors file, float32 or bfloat16. Raises WeightsError."""
    tensors = Tensors(path)
    levels = enumerate(STRIDES)
    return EncoderWeights(
        first=_conv(tensors, "encoder.model.0", 7, 1, CHANNELS[0]),
        levels=tuple(
            (_residual(tensors, "encoder", 3 * n + 1, n), _strided(tensors, n, stride)) for n, stride in levels
        ),
        last=_conv(tensors, "encoder.model.14", 3, CHANNELS[-1], DIM),
        layers=_layers(tensors, "encoder_transformer"),
        down=_conv(tensors, "downsample.conv", 4, DIM, DIM, stride=2, biased=False),
        quantizers=tuple(_quantizer(tensors, group, books) for group, books in _GROUPS),
    )


def load_decoder(path: Path) -> DecoderWeights:
    """Prepare Moshi's direction from Mimi's safetensors file, float32 or bfloat16. Raises WeightsError."""
    tensors = Tensors(path)
    levels = enumerate(reversed(STRIDES))
    last = _conv(tensors, "decoder.model.14", 3, CHANNELS[0], 1)
    return DecoderWeights(
        tables=tuple(_table(tensors, group, books) for group, books in _GROUPS),
        up=_copied(tensors.shaped("upsample.convtr.convtr.convtr.weight", DIM, 1, 4)[:, 0].T),
        layers=_layers(tensors, "decoder_transformer"),
        first=_conv(tensors, "decoder.model.0", 7, DIM, CHANNELS[-1]),
        levels=tuple(
            (_spread(tensors, n, stride), _residual(tensors, "decoder", 3 * n + 3, 3 - n)) for n, stride in levels
        ),
        last=last,
    )


_GROUPS = (("rvq_first", 1), ("rvq_rest", CODEBOOKS - 1))


def _copied(array: NDArray[Any]) -> F32:
    """Return it end to end in memory of its own, so that the file can go."""
    return np.array(array, np.float32, order="C")


def _conv(
    tensors: Tensors, name: str, kernel: int, channels: int, out: int, stride: int = 1, biased: bool = True
) -> Conv:
    weight = tensors.shaped(f"{name}.conv.conv.weight", out, channels, kernel)
    bias = _copied(tensors.shaped(f"{name}.conv.conv.bias", out)) if biased else None
    return Conv(
        Linear(_copied(weight.transpose(2, 1, 0)).reshape(kernel * channels, out), bias), channels, kernel, stride
    )


def _strided(tensors: Tensors, level: int, stride: int) -> Conv:
    name = f"encoder.model.{3 * level + 3}"
    return _conv(tensors, name, 2 * stride, CHANNELS[level], CHANNELS[level + 1], stride)


def _residual(tensors: Tensors, side: str, index: int, level: int) -> Residual:
    name, channels = f"{side}.model.{index}", CHANNELS[level]
    narrow = _conv(tensors, f"{name}.block.1", 3, channels, channels // 2)
    return Residual(narrow, _conv(tensors, f"{name}.block.3", 1, channels // 2, channels))


def _spread(tensors: Tensors, level: int, stride: int) -> Spread:
    name, channels, out = f"decoder.model.{3 * level + 2}.convtr.convtr", CHANNELS[-1 - level], CHANNELS[-2 - level]
    weight = tensors.shaped(f"{name}.weight", channels, out, 2 * stride)
    matrix = _copied(weight.transpose(0, 2, 1)).reshape(channels, 2 * stride * out)
    bias = np.tile(tensors.shaped(f"{name}.bias", out), stride)
    return Spread(Linear(matrix, np.concatenate([bias, np.zeros_like(bias)])), out, stride)


_HALVES = np.arange(DIM).reshape(HEADS, HEAD_DIM // 2, 2).transpose(0, 2, 1).reshape(-1)
"""The channels of all heads, in each head the even ones first."""


def _layers(tensors: Tensors, name: str) -> tuple[Layer, ...]:
    return tuple(_layer(tensors, f"{name}.transformer.layers.{layer}") for layer in range(LAYERS))


def _layer(tensors: Tensors, name: str) -> Layer:
    queries, keys, values = np.split(tensors.shaped(f"{name}.self_attn.in_proj_weight", 3 * DIM, DIM), 3)
    queries = queries[_HALVES] * np.float32(HEAD_DIM**-0.5)
    qkv = np.concatenate([queries, keys[_HALVES], values])
    return Layer(
        before_attention=_norm(tensors, f"{name}.norm1"),
        qkv=Linear(_copied(qkv.T)),
        attended=_scaled(tensors, f"{name}.self_attn.out_proj", f"{name}.layer_scale_1", DIM),
        before_feed_forward=_norm(tensors, f"{name}.norm2"),
        feed=Linear(_copied(tensors.shaped(f"{name}.linear1.weight", FEED_FORWARD, DIM).T)),
        forward=_scaled(tensors, f"{name}.linear2", f"{name}.layer_scale_2", FEED_FORWARD),
    )


def _norm(tensors: Tensors, name: str) -> Norm:
    return Norm(_copied(tensors.shaped(f"{name}.weight", DIM)), _copied(tensors.shaped(f"{name}.bias", DIM)))


def _scaled(tensors: Tensors, name: str, scale: str, channels: int) -> Linear:
    weight = tensors.shaped(f"{name}.weight", DIM, channels) * tensors.shaped(f"{scale}.scale", DIM)[:, None]
    return Linear(_copied(weight.T))


def _entries(tensors: Tensors, group: str, book: int) -> F32:
    name = f"quantizer.{group}.vq.layers.{book}._codebook"
    usage = np.maximum(tensors.shaped(f"{name}.cluster_usage", CODES), np.float32(1e-5))
    return _copied(tensors.shaped(f"{name}.embedding_sum", CODES, CODE_DIM) / usage[:, None])


def _book(entries: F32) -> Book:
    return Book(entries, Linear(_copied(-entries.T), (entries * entries).sum(axis=1) / 2))


def _quantizer(tensors: Tensors, group: str, books: int) -> Quantizer:
    project = tensors.shaped(f"quantizer.{group}.input_proj.weight", CODE_DIM, DIM, 1)
    entries = (_entries(tensors, group, book) for book in range(books))
    return Quantizer(Linear(_copied(project[:, :, 0].T)), tuple(_book(book) for book in entries))


def _table(tensors: Tensors, group: str, books: int) -> tuple[tuple[F32, ...], Linear]:
    project = tensors.shaped(f"quantizer.{group}.output_proj.weight", DIM, CODE_DIM, 1)
    entries = tuple(_entries(tensors, group, book) for book in range(books))
    return entries, Linear(_copied(project[:, :, 0].T))
