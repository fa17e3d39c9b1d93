"""Mimi's tensors out of a safetensors file, in float32, without loading the file."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize, safe_open

from workers.checkpoints.header import HeaderError, read_header
from workers.checkpoints.mimi_layout import SHAPES

F32 = NDArray[np.float32]


class WeightsError(ValueError):
    """The file does not hold a Mimi that can be used; the message is one line."""


class Tensors:
    def __init__(self, path: Path) -> None:
        """Open a file, float32 or bfloat16. Raises WeightsError."""
        try:
            self._header = read_header(path)
        except (OSError, HeaderError) as error:
            raise WeightsError(f"Mimi's weights cannot be read: {error}") from error
        self._path = path
        self._file = safe_open(path, framework="numpy")

    def __getitem__(self, name: str) -> F32:
        """Return one tensor, which must have Mimi's shape. Raises WeightsError."""
        info, wanted = self._header.get(name), SHAPES[name]
        if info is None:
            raise WeightsError(f"{self._path} holds no Mimi: {name} is missing")
        if info.shape != wanted:
            raise WeightsError(f"{self._path}: {name} has the shape {info.shape}, Mimi's has {wanted}")
        match info.dtype:
            case "F32":
                tensor: F32 = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
                return tensor
            case "BF16":
                bits = np.frombuffer(self._stored[name], np.uint16).astype(np.uint32) << 16
                return bits.view(np.float32).reshape(wanted)
            case _:
                raise WeightsError(f"{self._path}: {name} is stored as {info.dtype}; F32 and BF16 can be read")

    @cached_property
    def _stored(self) -> dict[str, bytes]:
        """All tensors as they are stored: numpy has no bfloat16, so the library does not read those one by one."""
        return {name: tensor["data"] for name, tensor in deserialize(self._path.read_bytes())}  # type: ignore[no-untyped-call]
