"""Reading a checkpoint's tensors, in float32, without loading the file.

A safetensors file is eight bytes of length, little-endian, a header in JSON, and the tensors end to end
(https://huggingface.co/docs/safetensors). The file is mapped: what is never asked for is never read.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.engine.header import HeaderError, read_header

F32 = NDArray[np.float32]


class WeightsError(ValueError):
    """The file does not hold a Mimi that can be used; the message is one line."""


class Tensors(Mapping[str, F32]):
    """The tensors of one file by name, each read when it is asked for. Raises WeightsError."""

    def __init__(self, path: Path) -> None:
        try:
            read_header(path)
        except (OSError, HeaderError) as error:
            raise WeightsError(f"Mimi's weights cannot be read: {error}") from error
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._entries = {k: v for k, v in json.loads(file.read(length)).items() if k != "__metadata__"}
        self._bytes = np.memmap(path, np.uint8, mode="r", offset=8 + length)

    def __getitem__(self, name: str) -> F32:
        """Return one tensor; it may lie in the mapped file and must not be written to."""
        if name not in self._entries:
            raise WeightsError(f"{self._path} holds no Mimi of 8 codebooks: {name} is missing")
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        return self._as_f32(name, entry["dtype"], self._bytes[begin:end]).reshape(entry["shape"])

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shaped(self, name: str, *shape: int) -> F32:
        """Return one tensor, which must have this shape."""
        tensor = self[name]
        if tensor.shape != shape:
            raise WeightsError(f"{self._path}: {name} has the shape {tensor.shape}, Mimi's has {shape}")
        return tensor

    def _as_f32(self, name: str, dtype: str, stored: NDArray[np.uint8]) -> F32:
        match dtype:
            case "F32":
                return stored.view(np.float32)
            case "BF16":
                return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            case _:
                raise WeightsError(f"{self._path}: {name} is stored as {dtype}; F32 and BF16 can be read")
