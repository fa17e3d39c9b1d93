"""Writing tensors as `torch.save` does, without torch: a zip archive of a pickle and the raw storages.

The pickle's instructions are written down as they stand in a file of torch 2.9.1 (`pickletools.dis` shows them), but
for the memo, which only makes it shorter.
"""

import zipfile
from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path

from workers.checkpoints.synthetic.weights_file import Array


def write_torch(path: Path, tensors: Mapping[str, tuple[str, Array]]) -> None:
    """Write a dict of tensors, each with the type of its storage (BFloat16Storage: its bits as uint16)."""
    content = b"\x80\x02}("
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, (storage, array)) in enumerate(tensors.items()):
            content += _text(name) + _tensor(storage, str(key), array)
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/data/{key}"), array.tobytes())
        archive.writestr(zipfile.ZipInfo(f"{path.stem}/data.pkl"), content + b"u.")
        archive.writestr(zipfile.ZipInfo(f"{path.stem}/byteorder"), b"little")
        archive.writestr(zipfile.ZipInfo(f"{path.stem}/version"), b"3\n")


def _tensor(storage: str, key: str, array: Array) -> bytes:
    """Return a call of `_rebuild_tensor_v2` with a storage, an offset, shape, strides, no gradient and no hooks."""
    place = b"(" + _text("storage") + _global("torch", storage) + _text(key) + _text("cpu") + _number(array.size)
    strides = tuple(accumulate((1, *array.shape[:0:-1]), mul))[::-1]
    arguments = place + b"tQ" + _number(0) + _numbers(array.shape) + _numbers(strides) + b"\x89"
    hooks = _global("collections", "OrderedDict") + b")R"
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + hooks + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _number(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
