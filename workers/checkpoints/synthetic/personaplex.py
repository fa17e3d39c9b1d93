"""A PersonaPlex of random weights, in NVIDIA's files: PyTorch's layout, 16 slices, a config without a shape.

Its voices are safetensors, where NVIDIA's are `torch.save`'s.

Once loaded it is the Moshi of `random_lm` with 16 slices, of which the first 8 are used: each tensor here is one of
those, or several on top of one another.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from workers.checkpoints.synthetic.lm_layout import DELAYS, MID, STREAMS, TINY, Shapes, tensors_of
from workers.checkpoints.synthetic.random_lm import values
from workers.checkpoints.synthetic.tokenizer_file import PADDING
from workers.checkpoints.synthetic.weights_file import (
    Array,
    LazyTensor,
    generator_of,
    in_f32,
    to_bf16,
    write_weights,
)
from workers.messages import CODES

SLICES = 16
PERSONAPLEX_SIZES = {
    "tiny": replace(TINY, num_heads=2, depformer_num_heads=1),
    "mid": replace(MID, num_heads=8, depformer_num_heads=8),
}
"""Heads as wide as the 7B's, 128 and 64, because the config says nothing about them."""
STUB_CONFIG = {"model_type": "personaplex", "version": "7b-v1"}
VOICE_NAMES = ("NATF0", "NATM0")
VOICE_STEPS = 25


def personaplex_lm(shapes: Shapes) -> dict[str, LazyTensor]:
    """Return the tensors of the file, bf16."""
    wanted = tensors_of(shapes, SLICES)
    return {name: _stack(name, [(one, wanted[one]) for one in parts]) for name, parts in _names(shapes).items()}


def _stack(name: str, parts: Sequence[tuple[str, tuple[int, ...]]]) -> LazyTensor:
    first = parts[0][1]
    shape = (1, 1, *first) if name.endswith(".alpha") else (len(parts) * first[0], *first[1:])

    def make() -> Array:
        return to_bf16(np.concatenate([values(*part) for part in parts]).reshape(shape))

    return LazyTensor("BF16", shape, make)


def _names(shapes: Shapes) -> dict[str, list[str]]:
    """Return the tensors of the file by PyTorch's names, each as the tensors that it consists of by moshi_mlx's."""
    same = ("text_emb.weight", "text_linear.weight")
    names = {name: [name] for name in same} | {"out_norm.alpha": ["out_norm.weight"]}
    names |= {f"emb.{stream}.weight": [f"audio_embs.{stream}.weight"] for stream in range(STREAMS)}
    names |= {"depformer_text_emb.weight": ["depformer.slices.0.emb.weight"]}
    for i in range(SLICES):
        at = f"depformer.slices.{i}"
        names |= {f"depformer_in.{i}.weight": [f"{at}.linear_in.weight"]}
        names |= {f"linears.{i}.weight": [f"{at}.linear_out.weight"]}
        names |= {f"depformer_emb.{i - 1}.weight": [f"{at}.emb.weight"]} if i else {}
    for layer in range(shapes.num_layers):
        names |= _layer(f"transformer.layers.{layer}", [f"transformer.layers.{layer}"])
    for layer in range(shapes.depformer_num_layers):
        slices = [f"depformer.slices.{i}.transformer.layers.{layer}" for i in range(SLICES)]
        names |= _layer(f"depformer.layers.{layer}", slices)
    return names


def _layer(at: str, layers: list[str]) -> dict[str, list[str]]:
    """Return one layer: the attention is stacked, the norms are shared, the gated MLPs lie apart."""
    names = {f"{at}.norm{n}.alpha": [f"{layers[0]}.norm{n}.weight"] for n in (1, 2)}
    names |= {f"{at}.self_attn.in_proj_weight": [f"{one}.self_attn.in_proj.weight" for one in layers]}
    names |= {f"{at}.self_attn.out_proj.weight": [f"{one}.self_attn.out_proj.weight" for one in layers]}
    for index, one in enumerate(layers):
        gating = f"{at}.gating.{index}" if len(layers) > 1 else f"{at}.gating"
        names |= {f"{gating}.linear_{way}.weight": [f"{one}.gating.linear_{way}.weight"] for way in ("in", "out")}
    return names


def write_voices(folder: Path, dim: int) -> None:
    """Write voices of random embeddings for a model of this width; text tokens are padding, codes random."""
    folder.mkdir()
    for name in VOICE_NAMES:
        random = generator_of(name)
        embeddings = random.standard_normal((VOICE_STEPS, 1, 1, dim), np.float32)
        cache = random.integers(0, CODES, (1, len(DELAYS), 4)).astype(np.float32)
        cache[:, 0] = PADDING
        write_weights(folder / f"{name}.safetensors", in_f32({"embeddings": embeddings, "cache": cache}))
