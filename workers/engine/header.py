"""The header of a safetensors file: eight bytes of length, little-endian, and a JSON object.

Read by hand because it tells, without mlx and without reading the weights, whether a download was cut short, how the
weights are quantised, and what they will take in memory.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

_LONGEST = 100_000_000
"""Bytes; the limit of the safetensors library itself."""


class HeaderError(ValueError):
    """The file is not a whole safetensors file."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as its header describes it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file by name. Raises HeaderError when it is damaged, cut short, or something else."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _LONGEST else b""
    try:
        entries = json.loads(header)
        tensors = {name: _tensor(entry) for name, entry in entries.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise HeaderError(f"{path} is not a safetensors file") from error
    present = path.stat().st_size
    if present != 8 + length + end:
        raise HeaderError(f"{path} is cut short or damaged: {present} bytes, not {8 + length + end}")
    return tensors


def _tensor(entry: dict[str, object]) -> Tensor:
    shape, offsets = entry["shape"], entry["data_offsets"]
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    return Tensor(str(entry["dtype"]), tuple(int(n) for n in shape), int(offsets[1]) - int(offsets[0]))
