"""A PersonaPlex voice from its file: `.pt` as PyTorch writes it, or `.safetensors` with the same two tensors.

A `.pt` is a zip archive: `data.pkl`, a pickle that describes tensors, and `data/0`, `data/1` …, their raw storages. A
pickle can execute anything, so it is read with an unpickler that knows PyTorch's few constructors and nothing else. A
small file can also take hours or all memory: only the opcodes that PyTorch writes are read, nothing in the archive may
be compressed, and each storage is read once.
"""

import io
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.header import HeaderError, read_header
from workers.messages import STEP_TOKENS

CACHE_COLUMNS = 4
LARGEST_FILE = 64 << 20
"""Bytes; NVIDIA's voices have a few hundred embeddings of 4096 bf16, 8 KiB each."""
LARGEST_PICKLE = 4 << 10
"""Bytes; that of two tensors has about 300."""
MOST_STEPS = 1_000
_TYPES = {
    "BFloat16Storage": np.dtype("<u2"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}
_BF16 = "BFloat16Storage"
_SHARED = {"BINUNICODE", "GLOBAL"}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "NEWFALSE", "NEWTRUE"}
_BUILD = {"EMPTY_DICT", "EMPTY_TUPLE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS"}
_OPCODES = _SHARED | _PUT | _GET | _NUMBERS | _BUILD | {"PROTO", "BINPERSID", "REDUCE", "STOP"}
"""What `torch.save` writes for tensors by name. BUILD, which sets attributes, is not among them."""


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
    if not (abs(cache) < 1 << 31).all():
        raise VoiceError("its cache holds other things than tokens")
    return VoiceEmbeddings(embeddings[:, 0, 0].astype(np.float32), cache[0].astype(np.int32))


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    import mlx.core as mx

    try:
        read_header(path)  # checks what mlx does not: shapes whose sizes overflow
        tensors = mx.load(str(path))
        assert isinstance(tensors, dict)
        return {name: np.array(tensor.astype(mx.float32)) for name, tensor in tensors.items()}
    except (HeaderError, RuntimeError, ValueError) as error:
        raise VoiceError(f"is not a whole safetensors file ({error.__cause__ or error})") from error


def _read_torch(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler(archive).load()
    except (VoiceError, OSError):
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
        self._storages: dict[tuple[str, str], NDArray[Any]] = {}
        content = self._read(pickles[0], LARGEST_PICKLE)
        _check_opcodes(content)
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _TYPES:
            return _StorageType(name)
        raise pickle.UnpicklingError(f"it wants to run {ascii(f'{module}.{name}')[1:-1]:.80}")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """Return a storage, one-dimensional; `pid` is ("storage", type, key, device, count). The device is ignored."""
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType) or not (isinstance(key, str) and key.isalnum()):
            raise pickle.UnpicklingError("it names an unknown storage")
        if (key, storage.name) not in self._storages:
            self._storages[key, storage.name] = self._read_storage(key, storage.name)
        content = self._storages[key, storage.name]
        if len(content) < int(count):
            raise pickle.UnpicklingError("a storage is cut short")
        return content

    def _read_storage(self, key: str, kind: str) -> NDArray[Any]:
        dtype: Any = _TYPES[kind]
        room = LARGEST_FILE - sum(one.nbytes for one in self._storages.values())
        raw = np.frombuffer(self._read(f"{self._folder}data/{key}", room), dtype)
        # a bf16 is the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32) if kind == _BF16 else raw

    def _read(self, name: str, most_bytes: int) -> bytes:
        member = self._archive.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED:
            raise VoiceError("is compressed, which torch.save does not do")
        if member.file_size > most_bytes:
            raise VoiceError("holds more in its archive than a voice does")
        return self._archive.read(name)


def _check_opcodes(content: bytes) -> None:
    """Raise UnpicklingError unless a pickle has only opcodes that `torch.save` writes, and shares only names.

    Tuples that hold one another twice, again and again, take forever to hash or to print; the number of a memo entry is
    how many are allocated.
    """
    names: dict[int, bool] = {}
    previous = ""
    for opcode, argument, _ in pickletools.genops(content):
        entry = argument if isinstance(argument, int) else 0
        if opcode.name not in _OPCODES or (opcode.name in _GET and not names.get(entry)):
            raise pickle.UnpicklingError(f"{opcode.name} in its pickle is not PyTorch's")
        if opcode.name in _PUT:
            if entry > len(content):
                raise pickle.UnpicklingError("its pickle has a memo of impossible size")
            names[entry] = previous in _SHARED
        previous = opcode.name


def _rebuild_tensor(storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """Return a tensor as `torch._utils._rebuild_tensor_v2` does; it must lie in its storage, row by row."""
    size = tuple(int(length) for length in size)
    count = int(np.prod(size))
    rows = tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    steps = [(have, want) for have, want, length in zip(stride, rows, size, strict=True) if length > 1]
    if min(size, default=0) < 0 or offset < 0 or offset + count > len(storage) or any(a != b for a, b in steps):
        raise pickle.UnpicklingError("a tensor does not lie in its storage row by row")
    return storage[offset : offset + count].reshape(size)
