"""Fine-tunes by LoRA, low-rank changes of weights (https://arxiv.org/abs/2106.09685), as moshi-finetune writes them.

For each changed module there are `lora_A.weight` (rank, inputs) and `lora_B.weight` (outputs, rank): its weight becomes
`W + scaling * B @ A`. Modules have PyTorch's names, in both ways of writing the attention's projections; where slices
are stacked, A has either one matrix for all of them or one for each. Other tensors, the embeddings that a fine-tune
with `ft_embed` has trained, take the place of the model's.
"""

import re
from collections.abc import Mapping

import mlx.core as mx

from workers.checkpoints.files import CheckpointError, Lora
from workers.engine.layout import mlx_tensors

_FACTOR = re.compile(r"(.+)\.lora_[AB]\.weight")
_SAME = "it was made for another model: set MOSHI_CHECKPOINT to that one"


def add_lora(weights: Mapping[str, mx.array], lora: Lora) -> dict[str, mx.array]:
    """Return the weights with a LoRA added, lazily; both by moshi_mlx's names. Raises CheckpointError."""
    stored = mx.load(str(lora.weights))
    assert isinstance(stored, dict)
    modules = sorted({found[1] for name in stored if (found := _FACTOR.fullmatch(name))})
    if not modules:
        raise CheckpointError(f"MOSHI_LORA: {lora.weights} holds no LoRA; take the one that moshi-finetune has written")
    changes = mlx_tensors({f"{module}.weight": _change(stored, module, lora) for module in modules}, pytorch=True)
    others = {name: one for name, one in stored.items() if ".lora_" not in name and ".frozen_W." not in name}
    replaced = mlx_tensors(others, pytorch=True)
    for name, tensor in [*changes.items(), *replaced.items()]:
        _check(weights, name, tensor)
    new = {name: (weights[name].astype(mx.float32) + change) for name, change in changes.items()} | replaced
    return {name: new[name].astype(weight.dtype) if name in new else weight for name, weight in weights.items()}


def _change(stored: Mapping[str, mx.array], module: str, lora: Lora) -> mx.array:
    """Return what is added to the weight of a module, (outputs, inputs) float32."""
    try:
        a, b = (stored[f"{module}.lora_{letter}.weight"].astype(mx.float32) for letter in "AB")
    except KeyError as error:
        raise CheckpointError(f"MOSHI_LORA: {error} is missing in {lora.weights}; fetch it anew") from error
    if a.ndim != 2 or b.ndim != 2 or not b.shape[1] or a.shape[0] % b.shape[1]:
        raise CheckpointError(f"MOSHI_LORA: the matrices of {module}, {a.shape} and {b.shape}, differ in rank")
    rank, stacked = b.shape[1], a.shape[0] // b.shape[1]
    if lora.rank not in (None, rank):
        raise CheckpointError(f"MOSHI_LORA: {module} has rank {rank}, its config.json says lora_rank {lora.rank}")
    if stacked > 1 and (b.shape[0] % stacked or not module.endswith(("in_proj", "out_proj"))):
        raise CheckpointError(f"MOSHI_LORA: the matrices of {module}, {a.shape} and {b.shape}, differ in rank")
    products = b.reshape(stacked, -1, rank) @ a.reshape(stacked, rank, -1)
    return lora.scaling * products.reshape(b.shape[0], a.shape[1])


def _check(weights: Mapping[str, mx.array], name: str, tensor: mx.array) -> None:
    if name not in weights:
        raise CheckpointError(f"MOSHI_LORA: it changes {name}, which the model does not have; {_SAME}")
    if weights[name].shape != tensor.shape:
        shapes = f"a weight of shape {tensor.shape}, the model's is {weights[name].shape}"
        raise CheckpointError(f"MOSHI_LORA: it changes {name}, {shapes}; {_SAME}")
