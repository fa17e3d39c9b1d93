"""What an engine takes in memory: known before anything is loaded, and as it is."""

from collections.abc import Mapping

import mlx.core as mx
from moshi_mlx.models import LmConfig

from workers.checkpoints.files import CheckpointError, Files
from workers.checkpoints.header import TensorInfo, read_header
from workers.codec.choose import library_for
from workers.engine.checkpoint import GROUP_SIZES, config_of
from workers.memory import Memory, Plan, memory_of, ram

CACHE_BYTES = 256 << 20
"""What MLX may keep of freed memory on a Mac; shapes are fixed, so more would never be used."""


def device_memory() -> Memory:
    """Return the memory of this computer and of the device that MLX computes on."""
    return memory_of(mx.device_info(), *ram())


def device_bytes() -> int:
    """Return the bytes that MLX holds for arrays that are in use, wherever they are."""
    return mx.get_active_memory()


def plan(files: Files, quantize: int | None, codec: str, calls: int, context: int | None = None) -> Plan:
    """Return what so many calls on a checkpoint take; `codec` is CODEC. Raises CheckpointError."""
    config = config_of(files)
    library = codec if codec in ("loopback", "rustymimi") else library_for(codec)
    quantised = quantize is not None or _is_quantised(read_header(files.model))
    kv_step = kv_cache_bytes(config, 1, 1, number_bytes(files))
    weights = weights_bytes(files, quantize)
    return Plan(weights, kv_step, library, calls, context or int(config.transformer.context), quantised)


def wired_limit(active: int, info: Mapping[str, str | int]) -> int | None:
    """Return how many bytes MLX should keep resident of `active`, None where it cannot.

    Only Metal wires memory, and MLX refuses more than `max_recommended_working_set_size` (`mx.set_wired_limit`).
    """
    most = int(info.get("max_recommended_working_set_size", 0))
    return min(active, most) or None


def keep_resident() -> None:
    """On a Mac keep weights and KV cache resident, and nothing else: macOS takes back what is idle for a second."""
    if limit := wired_limit(mx.get_active_memory(), mx.device_info()):
        mx.set_cache_limit(CACHE_BYTES)
        mx.set_wired_limit(limit)


def weights_bytes(files: Files, quantize: int | None = None) -> int:
    """Return the bytes of Moshi's weights once loaded, from the file's header alone.

    Weights that are quantised while loading count with two numbers of their own type (scale and bias) a group.
    """
    tensors = read_header(files.model)
    if quantize is None or _is_quantised(tensors):
        return sum(tensor.nbytes for tensor in tensors.values())
    return sum(_quantised_bytes(tensor, quantize) for tensor in tensors.values())


def kv_cache_bytes(config: LmConfig, slots: int, context: int | None = None, item_bytes: int = 2) -> int:
    """Return the bytes of the keys and values of `slots` calls; `item_bytes` is 2 for bf16, 4 for f32."""
    shape = config.transformer
    entries = slots * (context or int(shape.context))
    return 2 * int(shape.num_layers) * entries * int(shape.d_model) * item_bytes


def number_bytes(files: Files) -> int:
    """Return the bytes of one number of the KV cache: the type of the weights that are never quantised.

    Raises CheckpointError when the file holds no Moshi.
    """
    norm = read_header(files.model).get("out_norm.weight")
    if norm is None:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model} holds no Moshi; fetch the checkpoint anew")
    return norm.item_bytes


def _is_quantised(tensors: Mapping[str, TensorInfo]) -> bool:
    return any(name.endswith(".scales") for name in tensors)


def _quantised_bytes(tensor: TensorInfo, bits: int) -> int:
    group = GROUP_SIZES[bits]
    if len(tensor.shape) != 2 or tensor.shape[-1] % group:
        return tensor.nbytes
    return tensor.size * bits // 8 + 2 * tensor.nbytes // group
