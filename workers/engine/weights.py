"""moshi_mlx's modules, prepared for being called a hundred times a step.

A small model on a CPU spends its time between the products, not in them: every view of an array costs about as much as
a small product. So what can be done once is done here: weights are transposed, tables and products that are read
together are joined. Nothing is stored twice: the modules of the `Lm` become views of what is made here, and still work.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear
from moshi_mlx.models.lm import ScaledEmbedding
from moshi_mlx.modules.transformer import TransformerLayer

Function = Callable[[mx.array], mx.array]
Module = Any
"""A module of mlx.nn or moshi_mlx: a mapping of names to arrays, and callable."""


class StepLayer:
    """One transformer layer of moshi_mlx for one step of each row; x is (rows, dim)."""

    def __init__(self, layer: TransformerLayer) -> None:
        attention = layer.self_attn
        self._layer = layer
        self._heads, self._head_dim, self._scale = attention.cfg.num_heads, attention.cfg.head_dim, attention.scale
        self._in, self._out = product(attention.in_proj), product(attention.out_proj)
        self._gating_in, self._gating_out = product(layer.gating.linear_in), product(layer.gating.linear_out)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Return query, key and value, each (rows, heads, 1, head_dim)."""
        qkv = self._in(self._layer.norm1(x)).reshape(x.shape[0], 3 * self._heads, 1, self._head_dim)
        q, k, v = mx.split(qkv, 3, axis=1)
        return q, k, v

    def attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
        """Return the attention of the queries over keys and values, each (rows, heads, entries, head_dim)."""
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=self._scale, mask=mask)

    def finish(self, x: mx.array, seen: mx.array) -> mx.array:
        """Add the attention's result, (rows, heads, 1, head_dim), and the gated MLP; return the next x."""
        x = x + self._layer.layer_scale_1(self._out(seen.reshape(x.shape)))
        gate, value = mx.split(self._gating_in(self._layer.norm2(x)), 2, axis=-1)
        return x + self._layer.layer_scale_2(self._gating_out(gate * mx.sigmoid(gate) * value))  # type: ignore[no-any-return]


def product(module: Module) -> Function:
    """Return a linear module, (rows, inputs) to (rows, outputs), as a single operation where it is a plain matrix.

    On a CPU a plain matrix is stored transposed: the reference BLAS in mlx's wheel is twice as fast that way.
    """
    if type(module) is not Linear or "bias" in module:
        return module  # type: ignore[no-any-return]
    transposed = module["weight"].T
    if mx.default_device().type == mx.cpu:
        transposed = mx.contiguous(transposed)
        module["weight"] = transposed.T
    mx.eval(transposed)
    return lambda x: x @ transposed


def table(module: Module) -> Function:
    """Return an embedding, tokens to one axis more, without moshi_mlx's check for token -1, which is never fed."""
    if type(module) is not ScaledEmbedding or module.low_rank is not None:
        return module  # type: ignore[no-any-return]
    entries = module["weight"]
    return lambda tokens: entries[tokens]


def join(modules: Sequence[Module]) -> Module:
    """Return one module with the outputs (of products) or the entries (of embeddings) of all of them, in order."""
    whole = copy(modules[0])
    for name in whole.parameters():
        whole[name] = mx.concatenate([module[name] for module in modules])
        mx.eval(whole[name])
        for module, part in zip(modules, mx.split(whole[name], len(modules)), strict=True):
            module[name] = part
    return whole
