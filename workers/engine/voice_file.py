"""A PersonaPlex voice from its file: `.pt` as PyTorch writes it, or `.safetensors` with the same two tensors.

A `.pt` is a zip archive: `data.pkl`, a pickle that describes tensors, and `data/0`, `data/1` …, their raw storages. A
pickle can execute anything, so it is read with an unpickler that knows PyTorch's few constructors and nothing else.
"""

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.messages import STEP_TOKENS

CACHE_COLUMNS = 4
LARGEST_FILE = 64 << 20
"""Bytes; NVIDIA's voices have a few hundred embeddings of 4096 bf16, 8 KiB each."""
LARGEST_PICKLE = 64 << 10
MOST_STEPS = 1_000
_TYPES = {
    "BFloat16Storage": np.dtype("<u2"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}
_BF16 = "BFloat16Storage"


class VoiceError(ValueError):
    """The voice cannot be used; the message is one line without the file's name."""


@dataclass(frozen=True, slots=True)
class VoiceEmbeddings:
    """What a voice feeds to the model before a call.

    `embeddings` (steps, dim) float32 are the inputs of the transformer; `cache` (17, 4) int32 the tokens that follow
    them, by step modulo 4: text, the agent's 8 codes, the user's 8.
    """

    embeddings: NDArray[np.float32]
    cache: NDArray[np.int32]


def read_voice(path: Path) -> VoiceEmbeddings:
    """Return the voice in a `.pt` or `.safetensors` file. Raises OSError and VoiceError."""
    if path.stat().st_size > LARGEST_FILE:
        raise VoiceError(f"is larger than {LARGEST_FILE >> 20} MiB")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _checked(tensors)


def _checked(tensors: dict[str, NDArray[Any]]) -> VoiceEmbeddings:
    missing = {"embeddings", "cache"} - tensors.keys()
    if missing:
        raise VoiceError(f"holds no {' and no '.join(sorted(missing))}")
    embeddings, cache = tensors["embeddings"], tensors["cache"]
    if embeddings.ndim != 4 or embeddings.shape[1:3] != (1, 1) or not 0 < len(embeddings) <= MOST_STEPS:
        raise VoiceError(f"its embeddings have the shape {embeddings.shape}, not (1 to {MOST_STEPS}, 1, 1, dim)")
    if cache.shape != (1, STEP_TOKENS, CACHE_COLUMNS):
        raise VoiceError(f"its cache has the shape {cache.shape}, not (1, {STEP_TOKENS}, {CACHE_COLUMNS})")
    if not np.isfinite(embeddings).all():
        raise VoiceError("its embeddings are not finite")
    return VoiceEmbeddings(embeddings[:, 0, 0].astype(np.float32), cache[0].astype(np.int32))


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    import mlx.core as mx

    try:
        tensors = mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise VoiceError(f"is not a whole safetensors file ({error})") from error
    assert isinstance(tensors, dict)
    return {name: np.array(tensor.astype(mx.float32)) for name, tensor in tensors.items()}


def _read_torch(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler(archive).load()
    except VoiceError:
        raise
    except OSError:
        raise
    except Exception as error:  # a damaged archive or pickle can raise almost anything
        raise VoiceError(f"is no voice of PyTorch's ({error or type(error).__name__})") from error
    if not isinstance(content, dict) or not all(isinstance(one, np.ndarray) for one in content.values()):
        raise VoiceError("holds other things than tensors by name")
    return content


@dataclass(frozen=True, slots=True)
class _StorageType:
    name: str


class _Unpickler(pickle.Unpickler):
    """Knows tensors, and refuses every other class or function."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise VoiceError("is no archive of PyTorch's")
        self._folder = pickles[0].removesuffix("data.pkl")
        super().__init__(io.BytesIO(self._read(pickles[0], LARGEST_PICKLE)))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _TYPES:
            return _StorageType(name)
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """Return a storage, one-dimensional; `pid` is ("storage", type, key, device, count). The device is ignored."""
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType) or not str(key).isalnum():
            raise pickle.UnpicklingError("it names an unknown storage")
        content = self._read(f"{self._folder}data/{key}", LARGEST_FILE)
        dtype: Any = _TYPES[storage.name]
        raw = np.frombuffer(content, dtype)
        if len(raw) < int(count):
            raise pickle.UnpicklingError("a storage is cut short")
        # a bf16 is the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32) if storage.name == _BF16 else raw

    def _read(self, name: str, most_bytes: int) -> bytes:
        if self._archive.getinfo(name).file_size > most_bytes:
            raise VoiceError(f"{name} in it is too large")
        return self._archive.read(name)


def _rebuild_tensor(storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """Return a tensor as `torch._utils._rebuild_tensor_v2` does; it must lie in its storage, row by row."""
    size = tuple(int(length) for length in size)
    count = int(np.prod(size))
    rows = tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    steps = [(have, want) for have, want, length in zip(stride, rows, size, strict=True) if length > 1]
    if min(size, default=0) < 0 or offset < 0 or offset + count > len(storage) or any(a != b for a, b in steps):
        raise pickle.UnpicklingError("a tensor does not lie in its storage row by row")
    return storage[offset : offset + count].reshape(size)
