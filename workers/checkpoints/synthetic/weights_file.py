"""Writing safetensors files larger than memory, which the safetensors library does not.

The layout is that of https://huggingface.co/docs/safetensors: the header's length, the header in JSON, then the tensors
end to end. Each tensor is made only when its turn comes, and one of zeros leaves a hole in the file, which takes no
space on the disk.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.files import ReportProgress, report_nothing

Array = NDArray[np.generic]
F32 = NDArray[np.float32]
_ITEM_BYTES = {"F32": 4, "BF16": 2, "U32": 4}


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor to come: `dtype` F32, BF16 (its bits as uint16) or U32, and the function that makes it."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


def write_weights(path: Path, tensors: Mapping[str, LazyTensor], progress: ReportProgress = report_nothing) -> None:
    """Write `tensors` in their order to the new file `path`."""
    entries, total = {}, 0
    for name, tensor in tensors.items():
        offsets = [total, total := total + tensor.nbytes]
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + total)
        end = 0
        for name, tensor in tensors.items():
            array = np.ascontiguousarray(tensor.make())
            assert (array.shape, array.nbytes) == (tensor.shape, tensor.nbytes), name
            if array.any():
                file.seek(len(header) + end)
                file.write(array.data)
            end += tensor.nbytes
            progress(path.name, end, total)


def in_f32(arrays: Mapping[str, F32]) -> dict[str, LazyTensor]:
    """Return tensors that exist already as tensors to write."""
    return {name: LazyTensor("F32", array.shape, partial(np.asarray, array)) for name, array in arrays.items()}


def blank(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, F32]:
    """Return weights to be written down: norms and the usage of codebooks are 1, everything else 0."""
    ones = ("norm.weight", "norm1.weight", "norm2.weight", "_initialized", "cluster_usage")
    return {name: (np.ones if name.endswith(ones) else np.zeros)(shape, np.float32) for name, shape in shapes.items()}


def to_bf16(array: F32) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; return its bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def generator_of(name: str) -> np.random.Generator:
    """Return the random numbers of one tensor: each has its own, whichever is made first."""
    return np.random.default_rng([0, zlib.crc32(name.encode())])
