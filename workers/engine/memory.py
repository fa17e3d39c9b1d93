"""What an engine takes in memory: known before anything is loaded, and as it is."""

import mlx.core as mx
from moshi_mlx.models import LmConfig

from workers.checkpoint_files import Files
from workers.engine.checkpoint import GROUP_SIZES
from workers.engine.header import Tensor, read_header


def weights_bytes(files: Files, quantize: int | None = None) -> int:
    """Return the bytes of Moshi's weights once loaded, from the file's header alone.

    Weights that are packed while loading count with two numbers of their own type (scale and bias) a group.
    """
    tensors = read_header(files.model)
    if quantize is None or any(name.endswith(".scales") for name in tensors):
        return sum(tensor.nbytes for tensor in tensors.values())
    return sum(_packed_bytes(tensor, quantize) for tensor in tensors.values())


def ring_bytes(config: LmConfig, slots: int, context: int | None = None, item_bytes: int = 2) -> int:
    """Return the bytes of the keys and values of `slots` calls; `item_bytes` is 2 for bf16, 4 for f32."""
    shape = config.transformer
    entries = slots * (context or int(shape.context))
    return 2 * int(shape.num_layers) * entries * int(shape.d_model) * item_bytes


def number_bytes(files: Files) -> int:
    """Return the bytes of one number of the ring, which is of the type of the weights that are never packed."""
    norm = read_header(files.model)["out_norm.weight"]
    return norm.nbytes // norm.size


def device_bytes() -> int:
    """Return the bytes that MLX holds for arrays that are in use, wherever they are."""
    return mx.get_active_memory()


def _packed_bytes(tensor: Tensor, bits: int) -> int:
    group = GROUP_SIZES[bits]
    if len(tensor.shape) != 2 or tensor.shape[-1] % group:
        return tensor.nbytes
    return tensor.size * bits // 8 + 2 * tensor.nbytes // group
