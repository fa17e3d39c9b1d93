"""What a safetensors file holds, without reading its weights and without mlx.

Tells whether a download was cut short, how the weights are quantised, and what they will take in memory.
"""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open


class HeaderError(ValueError):
    """The file is not a whole safetensors file; the message is one line."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its header describes it; `dtype` in the file format's words, such as F32, BF16, U32."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def item_bytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)  # BOOL, the only one without, takes a byte
        return int(bits[0]) // 8 if bits else 1

    @property
    def nbytes(self) -> int:
        return self.size * self.item_bytes


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors in a file by name. Raises OSError, and HeaderError when it is damaged or cut short."""
    path.stat()
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: TensorInfo(one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError as error:
        raise HeaderError(f"{path} is not a whole safetensors file ({error})") from error
