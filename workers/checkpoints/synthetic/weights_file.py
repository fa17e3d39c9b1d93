"""Writing safetensors files larger than memory allows.

The layout is that of https://huggingface.co/docs/safetensors: the header's length, the header in JSON, then the tensors
end to end. Each tensor is made only when its turn comes, and one of zeros leaves a hole in the file, which takes no
space on the disk.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Progress = Callable[[str, int, int], None]
"""Told after each tensor: the file's name, bytes written, bytes in all."""

_ITEM_BYTES = {"F32": 4, "BF16": 2, "U32": 4}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to come: `dtype` F32, BF16 (its bits as uint16) or U32, and the function that makes it."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


def _spans(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, int]]:
    """Yield each tensor with the place where it begins, in bytes after the header."""
    begin = 0
    for name, tensor in tensors.items():
        yield name, tensor, begin
        begin += tensor.size


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries = {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, begin + tensor.size]}
        for name, tensor, begin in _spans(tensors)
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _made(name: str, tensor: Tensor) -> Array:
    array = np.ascontiguousarray(tensor.make())
    if array.shape != tensor.shape or array.nbytes != tensor.size:
        raise AssertionError(f"{name} came out as {array.dtype}{array.shape}, not {tensor.dtype}{tensor.shape}")
    return array


def write_weights(path: Path, tensors: Mapping[str, Tensor], progress: Progress | None = None) -> None:
    """Write `tensors` in their order to the new file `path`."""
    header, total = _header(tensors), sum(tensor.size for tensor in tensors.values())
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + total)
        for name, tensor, begin in _spans(tensors):
            array = _made(name, tensor)
            if array.any():
                file.seek(len(header) + begin)
                file.write(array.data)
            if progress is not None:
                progress(path.name, begin + tensor.size, total)


def in_f32(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Return tensors that exist already as tensors to write."""
    return {name: Tensor("F32", array.shape, lambda array=array: array) for name, array in arrays.items()}  # type: ignore[misc]


def to_bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; return its bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
