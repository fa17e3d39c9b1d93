"""Mimi's weights from its checkpoint, prepared once.

Scales that only multiply are folded into matrices: layer scales and attention's 1/8. A rotation turns one half of a
head's channels against the other, so queries and keys come with the even channels first, then the odd ones. Of a file's
codebooks, up to 32, the first 8 are read.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import DIM, GROUPS, HEAD_DIM, HEADS, LAYERS, SHAPES, STRIDES, codebook_name
from workers.codec.tensors import Tensors
from workers.codec.weights import (
    F32,
    Codebook,
    Conv,
    DecoderWeights,
    EncoderWeights,
    Linear,
    Norm,
    Quantizer,
    Residual,
    TransformerWeights,
    TransposedConv,
)

_EVEN_FIRST = np.arange(DIM).reshape(HEADS, HEAD_DIM // 2, 2).transpose(0, 2, 1).reshape(-1)
"""The channels of all heads, in each head the even ones first."""


def load_encoder(path: Path) -> EncoderWeights:
    """Prepare the caller's direction from Mimi's safetensors file, float32 or bfloat16. Raises WeightsError."""
    tensors = Tensors(path)
    return EncoderWeights(
        first=_conv(tensors, "encoder.model.0"),
        levels=tuple(
            (_residual(tensors, f"encoder.model.{3 * n + 1}"), _conv(tensors, f"encoder.model.{3 * n + 3}", stride))
            for n, stride in enumerate(STRIDES)
        ),
        last=_conv(tensors, "encoder.model.14"),
        layers=_transformer(tensors, "encoder_transformer"),
        downsample=_conv(tensors, "downsample.conv", 2),
        quantizers=tuple(_quantizer(tensors, group, books) for group, books in GROUPS.items()),
    )


def load_decoder(path: Path) -> DecoderWeights:
    """Prepare Moshi's direction from Mimi's safetensors file, float32 or bfloat16. Raises WeightsError."""
    tensors = Tensors(path)
    return DecoderWeights(
        tables=tuple(_table(tensors, group, books) for group, books in GROUPS.items()),
        upsample=_copied(tensors["upsample.convtr.convtr.convtr.weight"][:, 0].T),
        layers=_transformer(tensors, "decoder_transformer"),
        first=_conv(tensors, "decoder.model.0"),
        levels=tuple(
            (_transposed(tensors, f"decoder.model.{3 * n + 2}"), _residual(tensors, f"decoder.model.{3 * n + 3}"))
            for n in range(len(STRIDES))
        ),
        last=_conv(tensors, "decoder.model.14"),
    )


def _copied(array: NDArray[Any]) -> F32:
    """Return it contiguous in memory of its own."""
    return np.array(array, np.float32, order="C")


def _matrix(weight: NDArray[Any]) -> Linear:
    """Return a weight (out, in) of PyTorch's as a product."""
    return Linear(_copied(weight.T))


def _conv(tensors: Tensors, name: str, stride: int = 1) -> Conv:
    weight, bias = tensors[f"{name}.conv.conv.weight"], f"{name}.conv.conv.bias"
    out, channels, kernel = weight.shape
    matrix = _copied(weight.transpose(2, 1, 0)).reshape(kernel * channels, out)
    return Conv(Linear(matrix, tensors[bias] if bias in SHAPES else None), channels, kernel, stride)


def _residual(tensors: Tensors, name: str) -> Residual:
    return Residual(_conv(tensors, f"{name}.block.1"), _conv(tensors, f"{name}.block.3"))


def _transposed(tensors: Tensors, name: str) -> TransposedConv:
    weight = tensors[f"{name}.convtr.convtr.weight"]
    channels, out, kernel = weight.shape
    stride = kernel // 2
    bias = np.tile(tensors[f"{name}.convtr.convtr.bias"], stride)
    matrix = _copied(weight.transpose(0, 2, 1)).reshape(channels, kernel * out)
    return TransposedConv(Linear(matrix, np.concatenate([bias, np.zeros_like(bias)])), out, stride)


def _transformer(tensors: Tensors, name: str) -> tuple[TransformerWeights, ...]:
    return tuple(_layer(tensors, f"{name}.transformer.layers.{layer}") for layer in range(LAYERS))


def _layer(tensors: Tensors, name: str) -> TransformerWeights:
    queries, keys, values = np.split(tensors[f"{name}.self_attn.in_proj_weight"], 3)
    queries = queries[_EVEN_FIRST] * np.float32(HEAD_DIM**-0.5)
    scales = [tensors[f"{name}.layer_scale_{part}.scale"][:, None] for part in (1, 2)]
    return TransformerWeights(
        norm1=_norm(tensors, f"{name}.norm1"),
        qkv=_matrix(np.concatenate([queries, keys[_EVEN_FIRST], values])),
        attention_out=_matrix(tensors[f"{name}.self_attn.out_proj.weight"] * scales[0]),
        norm2=_norm(tensors, f"{name}.norm2"),
        linear1=_matrix(tensors[f"{name}.linear1.weight"]),
        linear2=_matrix(tensors[f"{name}.linear2.weight"] * scales[1]),
    )


def _norm(tensors: Tensors, name: str) -> Norm:
    return Norm(_copied(tensors[f"{name}.weight"]), _copied(tensors[f"{name}.bias"]))


def _entries(tensors: Tensors, codebook: int) -> F32:
    name = codebook_name(codebook)
    usage = np.maximum(tensors[f"{name}.cluster_usage"], np.float32(1e-5))
    return _copied(tensors[f"{name}.embedding_sum"] / usage[:, None])


def _codebook(entries: F32) -> Codebook:
    return Codebook(entries, Linear(_copied(-entries.T), (entries * entries).sum(axis=1) / 2))


def _quantizer(tensors: Tensors, group: str, codebooks: range) -> Quantizer:
    project = _matrix(tensors[f"quantizer.{group}.input_proj.weight"][:, :, 0])
    return Quantizer(project, tuple(_codebook(_entries(tensors, codebook)) for codebook in codebooks))


def _table(tensors: Tensors, group: str, codebooks: range) -> tuple[tuple[F32, ...], Linear]:
    project = _matrix(tensors[f"quantizer.{group}.output_proj.weight"][:, :, 0])
    return tuple(_entries(tensors, codebook) for codebook in codebooks), project
