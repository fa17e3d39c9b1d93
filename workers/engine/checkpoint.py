"""A folder of files becomes an `Lm`."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize as quantize_modules
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm

from workers.checkpoints.files import CheckpointError, Files, ReportProgress, read_config, report_nothing
from workers.checkpoints.header import TensorInfo
from workers.engine.config import config_of, model_header, no_moshi
from workers.engine.layout import is_pytorch, mlx_tensors
from workers.engine.lora import add_lora
from workers.engine.sampling import SamplingSettings

GROUP_SIZES = {4: 32, 8: 64}
"""Weights that share a scale, by bits: Kyutai's choice (`moshi_mlx/local.py`)."""


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
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: lm_gen_config in {files.config} is wrong ({error})") from error


def load(files: Files, quantize: int | None = None, progress: ReportProgress = report_nothing) -> Lm:
    """Load Moshi's weights; everything is evaluated on return. Raises CheckpointError.

    `quantize` (None, 4 or 8 bits) quantises plain weights, after a LoRA was added to them; those that are quantised
    already must match it.
    """
    tensors, config = model_header(files), config_of(files)
    if quantize not in (None, *GROUP_SIZES):
        raise CheckpointError(f"MOSHI_QUANTIZE={quantize}: choose none, 4 or 8")
    try:
        lm = Lm(config)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise no_moshi(files, repr(error)) from error
    fill(lm, files, tensors, quantize, progress)
    return lm


def fill(lm: Lm, files: Files, tensors: dict[str, TensorInfo], quantize: int | None, progress: ReportProgress) -> None:
    """Load the weights of `files`, whose `tensors` have moshi_mlx's names, into a new `lm`. Raises CheckpointError."""
    quantised = any(name.endswith(".scales") for name in tensors)
    if quantised:
        _quantize_as_file(lm, quantize, files, tensors)
    _load_weights(lm, files)
    if quantize and not quantised:
        quantize_plain(lm, quantize)
    _evaluate(lm, progress)


def quantize_plain(lm: Lm, bits: int) -> None:
    """Quantise every layer whose width is a multiple of the group size."""

    def divides(_: str, module: Module) -> bool:
        weight: Any = module["weight"]
        return bool(weight.shape[-1] % GROUP_SIZES[bits] == 0)

    _quantize(lm, bits, GROUP_SIZES[bits], divides)


def _quantize_as_file(lm: Lm, wanted: int | None, files: Files, tensors: dict[str, TensorInfo]) -> None:
    """Quantise the layers that the file has quantised: there a row takes `width * bits / 32` words and a scale a group.

    Raises CheckpointError when `wanted` bits are others than the file's, or for a LoRA, which needs plain weights.
    """
    path, weights = files.model, dict(tree_flatten(lm.parameters()))
    scaled = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    known = [name for name in scaled if f"{name}.weight" in weights and f"{name}.weight" in tensors]
    layer = next((name for name in known if tensors[f"{name}.scales"].shape and tensors[f"{name}.weight"].shape), None)
    if layer is None:
        raise CheckpointError(f"{files.setting}: {path.name} is quantised in an unknown way; fetch it anew")
    width, scales = weights[f"{layer}.weight"].shape[-1], tensors[f"{layer}.scales"].shape[-1]
    bits = 32 * tensors[f"{layer}.weight"].shape[-1] // width
    if wanted not in (None, bits):
        hint = f"set it to none, or take a checkpoint with {wanted} or 16 bits"
        raise CheckpointError(f"MOSHI_QUANTIZE={wanted}: {path.name} is quantised to {bits} bits; {hint}")
    if files.lora:
        hint = f"take the same checkpoint in bf16 and set MOSHI_QUANTIZE={bits}"
        raise CheckpointError(f"MOSHI_LORA: {path.name} is quantised, so that nothing can be added; {hint}")
    try:
        _quantize(lm, bits, width // scales, lambda name, _: name in scaled)
    except (ValueError, ZeroDivisionError) as error:
        raise does_not_fit(files, error) from error


def _quantize(lm: Lm, bits: int, group_size: int, predicate: Callable[[str, Module], bool]) -> None:
    def wanted(path: str, module: Module) -> bool:
        return hasattr(module, "to_quantized") and predicate(path, module)

    quantize_modules(lm, group_size=group_size, bits=bits, class_predicate=wanted)


def _load_weights(lm: Lm, files: Files) -> None:
    """Load the weights of a file, in MLX's layout or PyTorch's, and its LoRA into the model."""
    try:
        stored = mx.load(str(files.model))
    except RuntimeError as error:  # a type of numbers that MLX has not
        raise CheckpointError(f"{files.setting}: {files.model.name} cannot be loaded ({error})") from error
    assert isinstance(stored, dict)
    weights = mlx_tensors(stored, is_pytorch(stored))
    if files.lora:
        weights = add_lora(weights, files.lora)
    try:
        lm.load_weights(list(weights.items()), strict=True)
    except (ValueError, KeyError) as error:
        raise does_not_fit(files, error) from error


def does_not_fit(files: Files, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0][:200]
    hint = "weights and config.json must come from the same checkpoint"
    return CheckpointError(f"{files.setting}: {files.model.name} does not fit its config ({reason}); {hint}")


def _evaluate(lm: Lm, progress: ReportProgress) -> None:
    """Read and quantise everything, reporting tensor by tensor: from a slow disk it takes minutes."""
    arrays: list[mx.array] = list(dict(tree_flatten(lm.parameters())).values())
    mx.async_eval(arrays)  # type: ignore[no-untyped-call]
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("loading weights", done, total)
