"""The one door to weights: a folder of files becomes an `Lm`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize as quantize_modules
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig, config_v0_1

from workers.checkpoints.locate import CheckpointError, Files, Progress, locate, read_config, report_nothing
from workers.engine.header import Tensor, read_header
from workers.engine.sampling import Sampling
from workers.messages import CODEBOOKS

GROUP_SIZES = {4: 32, 8: 64}
"""Weights that share a scale, by bits: Kyutai's choice (`moshi_mlx/local.py`)."""
LARGEST_SIZE, MOST_LAYERS = 1_000_000, 1_000
"""Widths, vocabularies and depths beyond these are a mistake; the published Moshi has 32,000 words and 32 layers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, what it was loaded from, and how it wants to be sampled."""

    lm: Lm
    files: Files
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are packed: `bits` each, `group_size` of them with one scale."""

    bits: int
    group_size: int


def open_checkpoint(spec: str, quantize: int | None, *, cache: Path, progress: Progress) -> Checkpoint:
    """Find, fetch or make the checkpoint that MOSHI_CHECKPOINT names and load it. Raises CheckpointError."""
    files = locate(spec, cache, progress, quantize)
    return Checkpoint(load(files, quantize), files, sampling_of(files))


def load(files: Files, quantize: int | None = None, progress: Progress = report_nothing) -> Lm:
    """Load Moshi's weights; everything is evaluated on return. Raises CheckpointError.

    `quantize` (None, 4 or 8 bits) packs a plain checkpoint; one that is packed already must match it or be left alone.
    """
    tensors = read_header(files.model)
    config = config_of(files)
    packed = quantization_of(tensors, config.transformer.d_model)
    _see_matching(packed, quantize, files.model)
    lm = _build(config, files)
    if packed is not None:
        _pack(lm, packed, lambda path, _: f"{path}.scales" in tensors)
    _fill(lm, files.model, tensors, config)
    if packed is None and quantize is not None:
        plan = Quantization(quantize, GROUP_SIZES[quantize])
        _pack(lm, plan, lambda _, module: _divides(module, plan.group_size))
    _evaluate(lm, progress)
    return lm


def _evaluate(lm: Lm, progress: Progress) -> None:
    """Have everything read and packed, and report it tensor by tensor: from a slow disk it takes minutes."""
    leaves: Any = tree_flatten(lm.parameters())
    arrays: list[mx.array] = [array for _, array in leaves]
    mx.async_eval(arrays)  # type: ignore[no-untyped-call]
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("loading weights", done, total)


def config_of(files: Files) -> LmConfig:
    """Return the shape of the model: that of config.json, or the published 7B. Raises CheckpointError."""
    settings = read_config(files.config)
    try:
        config = LmConfig.from_config_dict(settings) if settings else config_v0_1()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.config} does not describe a Moshi ({error!r})") from error
    if wrong := _wrong_number(config):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.config} does not describe a Moshi ({wrong})")
    if obstacle := _obstacle(config):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model.name} {obstacle}; take a Moshi for dialogue")
    return config


def sampling_of(files: Files) -> Sampling:
    """Return how the checkpoint wants to be sampled: `lm_gen_config` in config.json, else the defaults."""
    wish = read_config(files.config).get("lm_gen_config") or {}
    default = Sampling()
    try:
        return Sampling(
            text_temperature=float(wish.get("temp_text", default.text_temperature)),
            text_top_k=int(wish.get("top_k_text", default.text_top_k)),
            audio_temperature=float(wish.get("temp", default.audio_temperature)),
            audio_top_k=int(wish.get("top_k", default.audio_top_k)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: lm_gen_config in {files.config} is wrong ({error})") from error


def quantization_of(tensors: dict[str, Tensor], dim: int) -> Quantization | None:
    """Tell from the shapes how a file is packed, None when it is not; `dim` is the width of the model.

    A row of `dim` weights takes `dim * bits / 32` words and `dim / group_size` scales.
    """
    if "text_emb.scales" not in tensors:
        return None
    words, scales = tensors["text_emb.weight"].shape[-1], tensors["text_emb.scales"].shape[-1]
    return Quantization(bits=32 * words // dim, group_size=dim // scales)


def _see_matching(packed: Quantization | None, quantize: int | None, path: Path) -> None:
    if quantize not in (None, *GROUP_SIZES):
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: choose none, 4 or 8")
    if packed is not None and quantize not in (None, packed.bits):
        hint = f"set it to none, or take a checkpoint with {quantize} or 16 bits"
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: {path.name} is quantised to {packed.bits} bits; {hint}")


def _build(config: LmConfig, files: Files) -> Lm:
    try:
        return Lm(config)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.config} does not describe a Moshi ({error!r})") from error


def _wrong_number(config: LmConfig) -> str:
    """Say which number of the shape cannot be one, "" when all can: `Lm` would compute with it, or never end."""
    main, depth = config.transformer, config.depformer.transformer
    sizes = {
        "dim": main.d_model,
        "num_heads": main.num_heads,
        "context": main.context,
        "card": config.audio_vocab_size,
        "text_card": config.text_out_vocab_size,
        "depformer_dim": depth.d_model,
        "depformer_num_heads": depth.num_heads,
        "depformer_dim_feedforward": depth.dim_feedforward,
    }
    layers = {"num_layers": main.num_layers, "depformer_num_layers": depth.num_layers}
    limits = [(sizes, LARGEST_SIZE), (layers, MOST_LAYERS)]
    numbers = [(name, number, most) for group, most in limits for name, number in group.items()]
    wrong = [
        f"{name} {number!r}" for name, number, most in numbers if type(number) is not int or not 0 < number <= most
    ]
    if not isinstance(main.max_period, int | float) or main.max_period <= 0:
        wrong.append(f"max_period {main.max_period!r}")
    delays = config.audio_delays
    if type(delays) is not list or len(delays) != config.audio_codebooks or not all(type(one) is int for one in delays):
        wrong.append(f"delays {delays!r}"[:80])
    if not wrong and (main.d_model % main.num_heads or depth.d_model % depth.num_heads):
        return "a width is not a multiple of its heads"
    return ", ".join(wrong)


def _obstacle(config: LmConfig) -> str:
    """Say why the batched step does not serve this shape, "" when it does."""
    if config.audio_codebooks != 2 * CODEBOOKS or config.depformer.num_slices != CODEBOOKS:
        return f"has not {CODEBOOKS} codebooks a voice"
    if config.conditioners or config.transformer.cross_attention or config.demux_second_stream:
        return "wants conditions"
    if config.transformer.positional_embedding != "rope" or config.depformer.transformer.positional_embedding != "none":
        return "has other positional embeddings"
    return ""


def _pack(lm: Lm, plan: Quantization, predicate: Callable[[str, Module], bool]) -> None:
    def packs(path: str, module: Module) -> bool:
        return hasattr(module, "to_quantized") and predicate(path, module)

    quantize_modules(lm, group_size=plan.group_size, bits=plan.bits, class_predicate=packs)


def _divides(module: Module, group_size: int) -> bool:
    weight: Any = module["weight"]
    return bool(weight.shape[-1] % group_size == 0)


def _fill(lm: Lm, path: Path, tensors: dict[str, Tensor], config: LmConfig) -> None:
    """Put the weights of a file, in MLX's layout or PyTorch's, into the model."""
    try:
        if "depformer_in.0.weight" in tensors:
            lm.load_pytorch_weights(str(path), config, strict=True)
        else:
            lm.load_weights(str(path), strict=True)
    except (ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        hint = "weights and config.json must come from the same checkpoint"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path.name} does not fit its config ({reason}); {hint}") from error
