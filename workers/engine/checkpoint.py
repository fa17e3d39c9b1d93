"""A folder of files becomes an `Lm`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize as quantize_modules
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig, config_v0_1

from workers.checkpoints.files import CheckpointError, Files, ReportProgress, read_config, report_nothing
from workers.checkpoints.header import TensorInfo, read_header
from workers.checkpoints.locate import locate
from workers.engine.sampling import SamplingSettings
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
    sampling: SamplingSettings


@dataclass(frozen=True, slots=True)
class Quantization:
    """`bits` a weight; `group_size` weights share one scale and one bias."""

    bits: int
    group_size: int


def open_checkpoint(spec: str, quantize: int | None, *, cache: Path, progress: ReportProgress) -> Checkpoint:
    """Find, fetch or make the checkpoint that MOSHI_CHECKPOINT names and load it. Raises CheckpointError."""
    files = locate(spec, cache, progress, quantize)
    return Checkpoint(load(files, quantize), files, sampling_of(files))


def load(files: Files, quantize: int | None = None, progress: ReportProgress = report_nothing) -> Lm:
    """Load Moshi's weights; everything is evaluated on return. Raises CheckpointError.

    `quantize` (None, 4 or 8 bits) quantises plain weights; those that are quantised already must match it.
    """
    tensors = read_header(files.model)
    config = config_of(files)
    found = quantization_of(tensors, config.transformer.d_model)
    _check_quantization(found, quantize, files.model)
    try:
        lm = Lm(config)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise _no_moshi(files, repr(error)) from error
    if found:
        _quantize(lm, found, lambda path, _: f"{path}.scales" in tensors)
    _load_weights(lm, files.model, tensors, config)
    if quantize and not found:
        quantize_plain(lm, quantize)
    _evaluate(lm, progress)
    return lm


def quantize_plain(lm: Lm, bits: int) -> None:
    """Quantise every layer whose width is a multiple of the group size."""

    def divides(_: str, module: Module) -> bool:
        weight: Any = module["weight"]
        return bool(weight.shape[-1] % GROUP_SIZES[bits] == 0)

    _quantize(lm, Quantization(bits, GROUP_SIZES[bits]), divides)


def config_of(files: Files) -> LmConfig:
    """Return the shape of the model: that of config.json, or the published 7B. Raises CheckpointError."""
    settings = read_config(files.config)
    try:
        config = LmConfig.from_config_dict(settings) if settings else config_v0_1()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_moshi(files, repr(error)) from error
    if wrong := _wrong_numbers(config):
        raise _no_moshi(files, wrong)
    if unsupported := _unsupported(config):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model.name} {unsupported}; take a Moshi for dialogue")
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


def quantization_of(tensors: dict[str, TensorInfo], dim: int) -> Quantization | None:
    """Return how a file is quantised, None when it is not; `dim` is the width of the model.

    A row of `dim` weights takes `dim * bits / 32` words and `dim / group_size` scales.
    """
    if "text_emb.scales" not in tensors:
        return None
    words, scales = tensors["text_emb.weight"].shape[-1], tensors["text_emb.scales"].shape[-1]
    return Quantization(bits=32 * words // dim, group_size=dim // scales)


def _check_quantization(found: Quantization | None, quantize: int | None, path: Path) -> None:
    if quantize not in (None, *GROUP_SIZES):
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: choose none, 4 or 8")
    if found and quantize not in (None, found.bits):
        hint = f"set it to none, or take a checkpoint with {quantize} or 16 bits"
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: {path.name} is quantised to {found.bits} bits; {hint}")


def _no_moshi(files: Files, reason: str) -> CheckpointError:
    return CheckpointError(f"MOSHI_CHECKPOINT: {files.config} does not describe a Moshi ({reason})")


def _wrong_numbers(config: LmConfig) -> str:
    """Return which numbers of the shape cannot be right, "" for none: `Lm` would compute with them, or never end."""
    main, depformer = config.transformer, config.depformer.transformer
    sizes = {
        "dim": main.d_model,
        "num_heads": main.num_heads,
        "context": main.context,
        "card": config.audio_vocab_size,
        "text_card": config.text_out_vocab_size,
        "depformer_dim": depformer.d_model,
        "depformer_num_heads": depformer.num_heads,
        "depformer_dim_feedforward": depformer.dim_feedforward,
    }
    layers = {"num_layers": main.num_layers, "depformer_num_layers": depformer.num_layers}
    limits = {**dict.fromkeys(sizes, LARGEST_SIZE), **dict.fromkeys(layers, MOST_LAYERS)}
    numbers = (sizes | layers).items()
    wrong = [f"{name} {n!r}" for name, n in numbers if type(n) is not int or not 0 < n <= limits[name]]
    if not isinstance(main.max_period, int | float) or main.max_period <= 0:
        wrong.append(f"max_period {main.max_period!r}")
    delays = config.audio_delays
    if type(delays) is not list or len(delays) != config.audio_codebooks or not all(type(n) is int for n in delays):
        wrong.append(f"delays {delays!r}"[:80])
    if not wrong and (main.d_model % main.num_heads or depformer.d_model % depformer.num_heads):
        return "a width is not a multiple of its heads"
    return ", ".join(wrong)


def _unsupported(config: LmConfig) -> str:
    """Return why the batched step does not serve this shape, "" when it does."""
    if config.audio_codebooks != 2 * CODEBOOKS or config.depformer.num_slices != CODEBOOKS:
        return f"has not {CODEBOOKS} codebooks a voice"
    if config.conditioners or config.transformer.cross_attention or config.demux_second_stream:
        return "wants conditions"
    if config.transformer.positional_embedding != "rope" or config.depformer.transformer.positional_embedding != "none":
        return "has other positional embeddings"
    return ""


def _quantize(lm: Lm, quantization: Quantization, predicate: Callable[[str, Module], bool]) -> None:
    def wanted(path: str, module: Module) -> bool:
        return hasattr(module, "to_quantized") and predicate(path, module)

    quantize_modules(lm, group_size=quantization.group_size, bits=quantization.bits, class_predicate=wanted)


def _load_weights(lm: Lm, path: Path, tensors: dict[str, TensorInfo], config: LmConfig) -> None:
    """Load the weights of a file, in MLX's layout or PyTorch's, into the model."""
    try:
        if "depformer_in.0.weight" in tensors:
            lm.load_pytorch_weights(str(path), config, strict=True)
        else:
            lm.load_weights(str(path), strict=True)
    except (ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        hint = "weights and config.json must come from the same checkpoint"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path.name} does not fit its config ({reason}); {hint}") from error


def _evaluate(lm: Lm, progress: ReportProgress) -> None:
    """Read and quantise everything, reporting tensor by tensor: from a slow disk it takes minutes."""
    leaves: Any = tree_flatten(lm.parameters())
    arrays: list[mx.array] = [array for _, array in leaves]
    mx.async_eval(arrays)  # type: ignore[no-untyped-call]
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("loading weights", done, total)
