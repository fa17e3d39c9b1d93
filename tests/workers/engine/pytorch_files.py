"""Moshis in PyTorch's layout, written from moshi_mlx's tensors by hand: what the loader has to undo."""

import re
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig
from numpy.typing import NDArray

from tests.workers.engine.small import MID

F32 = NDArray[np.float32]
Tensors = dict[str, F32]
PERSONAPLEX = {**MID, "dep_q": 16, "depformer_context": 16}
LAYERS, DEPTH_LAYERS = 3, 2


def build_wide(config: dict[str, Any] = PERSONAPLEX) -> Lm:
    """Return a Moshi of random weights and norms, which predicts the caller too; its slices share their norms."""
    mx.random.seed(2)
    lm = Lm(LmConfig.from_config_dict(config))
    lm.set_dtype(mx.float32)
    weights: dict[str, mx.array] = dict(tree_flatten(lm.parameters()))
    norms: dict[str, mx.array] = {}
    for name in (name for name in weights if "norm" in name):
        shared = re.sub(r"slices\.\d+", "slices", name)
        weights[name] = norms.setdefault(shared, 1 + mx.random.normal(weights[name].shape) / 10)
    lm.load_weights(list(weights.items()))
    mx.eval(lm.parameters())
    return lm


def numbers(lm: Lm) -> Tensors:
    weights: dict[str, mx.array] = dict(tree_flatten(lm.parameters()))
    return {name: np.array(one.astype(mx.float32)) for name, one in weights.items()}


def kept(weights: Tensors) -> Tensors:
    """Return the weights without slices 8 to 15."""
    dropped = tuple(f"depformer.slices.{i}." for i in range(8, 16))
    return {name: one for name, one in weights.items() if not name.startswith(dropped)}


def pytorch(weights: Tensors, slices: int, apart: bool) -> Tensors:
    """Return the weights in PyTorch's layout, the attention's projections stacked or, as newer files, `apart`."""
    file = {name: weights[name] for name in ("text_emb.weight", "text_linear.weight")}
    file["out_norm.alpha"] = weights["out_norm.weight"][None, None]
    for stream in range(16):
        file[f"emb.{stream}.weight"] = weights[f"audio_embs.{stream}.weight"]
    for i in range(slices):
        at = f"depformer.slices.{i}"
        file[f"depformer_in.{i}.weight"] = weights[f"{at}.linear_in.weight"]
        file[f"linears.{i}.weight"] = weights[f"{at}.linear_out.weight"]
        embedding = f"depformer_emb.{i - 1}.weight" if i else "depformer_text_emb.weight"
        file[embedding] = weights[f"{at}.emb.weight"]
    for layer in range(LAYERS):
        at = f"transformer.layers.{layer}"
        file |= _layer(weights, at, [at], apart)
        for way in ("in", "out"):
            file[f"{at}.gating.linear_{way}.weight"] = weights[f"{at}.gating.linear_{way}.weight"]
    for layer in range(DEPTH_LAYERS):
        sources = [f"depformer.slices.{i}.transformer.layers.{layer}" for i in range(slices)]
        file |= _layer(weights, f"depformer.layers.{layer}", sources, apart)
        for i, source in enumerate(sources):
            for way in ("in", "out"):
                gating = f"depformer.layers.{layer}.gating.{i}.linear_{way}.weight"
                file[gating] = weights[f"{source}.gating.linear_{way}.weight"]
    return file


def _layer(weights: Tensors, at: str, sources: list[str], apart: bool) -> Tensors:
    norms = {f"{at}.norm{n}.alpha": weights[f"{sources[0]}.norm{n}.weight"][None, None] for n in (1, 2)}
    ins = [weights[f"{source}.self_attn.in_proj.weight"] for source in sources]
    outs = [weights[f"{source}.self_attn.out_proj.weight"] for source in sources]
    if apart:
        projections = {f"{at}.self_attn.in_projs.{i}.weight": one for i, one in enumerate(ins)}
        projections |= {f"{at}.self_attn.out_projs.{i}.weight": one for i, one in enumerate(outs)}
    else:
        projections = {f"{at}.self_attn.in_proj_weight": np.concatenate(ins)}
        projections |= {f"{at}.self_attn.out_proj.weight": np.concatenate(outs)}
    return norms | projections
