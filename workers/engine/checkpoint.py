"""A folder of files becomes an `Lm`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize as quantize_modules
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig, config_v0_1
from pydantic import BaseModel, Field, ValidationError

from workers.checkpoints.files import CheckpointError, Files, ReportProgress, read_config, report_nothing
from workers.checkpoints.header import TensorInfo, read_header
from workers.engine.sampling import SamplingSettings

GROUP_SIZES = {4: 32, 8: 64}
"""Weights that share a scale, by bits: Kyutai's choice (`moshi_mlx/local.py`)."""
_Size = Annotated[int, Field(strict=True, gt=0, le=1_000_000)]
_Layers = Annotated[int, Field(strict=True, gt=0, le=1_000)]
_Delay = Annotated[int, Field(strict=True, ge=0, le=1_000)]


class _DialogueShape(BaseModel):
    """What config.json must say for the batched step; with other numbers `Lm` would compute too, or never end.

    The published Moshi has 32,000 words and 32 layers. In `delays` that of the text comes first.
    """

    dim: _Size
    num_heads: _Size
    num_layers: _Layers
    context: _Size
    max_period: Annotated[float, Field(strict=True, gt=0)]
    card: _Size
    text_card: _Size
    n_q: Literal[16]
    delays: Annotated[list[_Delay], Field(min_length=17, max_length=17)]
    depformer_dim: _Size
    depformer_num_heads: _Size
    depformer_num_layers: _Layers
    depformer_dim_feedforward: _Size
    dep_q: Literal[8]
    positional_embedding: Literal["rope"]
    depformer_pos_emb: Literal["none"]
    cross_attention: Literal[False] = False
    demux_second_stream: Literal[False] = False
    conditioners: Annotated[dict[str, Any], Field(max_length=0)] = {}


def config_of(files: Files) -> LmConfig:
    """Return the shape of the model: that of config.json, or the published 7B. Raises CheckpointError."""
    settings = read_config(files.config)
    if not settings:
        return config_v0_1()
    try:
        shape = _DialogueShape.model_validate(settings)
        config = LmConfig.from_config_dict(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise _no_moshi(files, f"{first['loc'][0]} {first['input']!r:.80}: {first['msg']}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_moshi(files, repr(error)) from error
    if shape.dim % shape.num_heads or shape.depformer_dim % shape.depformer_num_heads:
        raise _no_moshi(files, "a width is not a multiple of its heads")
    return config


def sampling_of(files: Files) -> SamplingSettings:
    """Return how the checkpoint wants to be sampled: `lm_gen_config` in config.json, else the defaults."""
    wanted = read_config(files.config).get("lm_gen_config") or {}
    default = SamplingSettings()
    try:
        return SamplingSettings(
            text_temperature=float(wanted.get("temp_text", default.text_temperature)),
            text_top_k=int(wanted.get("top_k_text", default.text_top_k)),
            audio_temperature=float(wanted.get("temp", default.audio_temperature)),
            audio_top_k=int(wanted.get("top_k", default.audio_top_k)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: lm_gen_config in {files.config} is wrong ({error})") from error


def load(files: Files, quantize: int | None = None, progress: ReportProgress = report_nothing) -> Lm:
    """Load Moshi's weights; everything is evaluated on return. Raises CheckpointError.

    `quantize` (None, 4 or 8 bits) quantises plain weights; those that are quantised already must match it.
    """
    tensors, config = read_header(files.model), config_of(files)
    if quantize not in (None, *GROUP_SIZES):
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: choose none, 4 or 8")
    try:
        lm = Lm(config)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise _no_moshi(files, repr(error)) from error
    if "text_emb.scales" in tensors:
        _quantize_as_file(lm, quantize, files.model, tensors)
    _load_weights(lm, files.model, tensors)
    if quantize and "text_emb.scales" not in tensors:
        quantize_plain(lm, quantize)
    _evaluate(lm, progress)
    return lm


def quantize_plain(lm: Lm, bits: int) -> None:
    """Quantise every layer whose width is a multiple of the group size."""

    def divides(_: str, module: Module) -> bool:
        weight: Any = module["weight"]
        return bool(weight.shape[-1] % GROUP_SIZES[bits] == 0)

    _quantize(lm, bits, GROUP_SIZES[bits], divides)


def _quantize_as_file(lm: Lm, wanted: int | None, path: Path, tensors: dict[str, TensorInfo]) -> None:
    """Quantise the layers that the file has quantised: there a row takes `dim * bits / 32` words and a scale a group.

    Raises CheckpointError when `wanted` bits are others than the file's.
    """
    dim = lm.cfg.transformer.d_model
    bits = 32 * tensors["text_emb.weight"].shape[-1] // dim
    if wanted not in (None, bits):
        hint = f"set it to none, or take a checkpoint with {wanted} or 16 bits"
        raise CheckpointError(f"MOSHI_QUANTIZE={wanted}: {path.name} is quantised to {bits} bits; {hint}")
    group_size = dim // tensors["text_emb.scales"].shape[-1]
    _quantize(lm, bits, group_size, lambda name, _: f"{name}.scales" in tensors)


def _quantize(lm: Lm, bits: int, group_size: int, predicate: Callable[[str, Module], bool]) -> None:
    def wanted(path: str, module: Module) -> bool:
        return hasattr(module, "to_quantized") and predicate(path, module)

    quantize_modules(lm, group_size=group_size, bits=bits, class_predicate=wanted)


def _load_weights(lm: Lm, path: Path, tensors: dict[str, TensorInfo]) -> None:
    """Load the weights of a file, in MLX's layout or PyTorch's, into the model."""
    try:
        if "depformer_in.0.weight" in tensors:
            lm.load_pytorch_weights(str(path), lm.cfg, strict=True)
        else:
            lm.load_weights(str(path), strict=True)
    except (ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        hint = "weights and config.json must come from the same checkpoint"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path.name} does not fit its config ({reason}); {hint}") from error


def _evaluate(lm: Lm, progress: ReportProgress) -> None:
    """Read and quantise everything, reporting tensor by tensor: from a slow disk it takes minutes."""
    arrays: list[mx.array] = list(dict(tree_flatten(lm.parameters())).values())
    mx.async_eval(arrays)  # type: ignore[no-untyped-call]
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("loading weights", done, total)


def _no_moshi(files: Files, reason: str) -> CheckpointError:
    hint = "take a Moshi for dialogue"
    return CheckpointError(f"MOSHI_CHECKPOINT: {files.config} does not describe a Moshi ({reason}); {hint}")
