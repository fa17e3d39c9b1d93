import pickletools
import zipfile
from pathlib import Path

import numpy as np

from workers.checkpoints.synthetic.torch_file import write_torch
from workers.checkpoints.synthetic.weights_file import to_bf16

TORCH_FILE = Path("tests/workers/engine/voices/torch-2.9.1.pt")
"""Written by torch 2.9.1; `tests/workers/engine/test_voice_file.py` says what it holds."""
SHORT_FORMS = {"BININT1": "BININT", "TUPLE3": "TUPLE", "TUPLE1": "TUPLE", "TUPLE2": "TUPLE"}


def constants(path: Path) -> list[object]:
    """Return what a file's pickle says, one argument after the other, without the memo and the numbers' lengths."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        seen, said = dict[object, object](), list[object]()
        for opcode, argument, _ in pickletools.genops(archive.read(name)):
            if opcode.name == "BINPUT":
                seen[argument] = said[-1]
            elif opcode.name == "BINGET":
                said.append(seen[argument])
            elif argument is not None:
                said.append(argument)
    return said


def storages(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        return [archive.read(f"{archive.namelist()[0].split('/')[0]}/data/{key}") for key in range(2)]


def test_it_says_what_torch_says(tmp_path: Path) -> None:
    path = tmp_path / "torch-2.9.1.pt"
    embeddings = (np.arange(24) / 8 - 1).astype(np.float32).reshape(3, 1, 1, 8)
    cache = np.arange(68).reshape(1, 17, 4)
    write_torch(path, {"embeddings": ("BFloat16Storage", to_bf16(embeddings)), "cache": ("LongStorage", cache)})
    assert storages(path) == storages(TORCH_FILE)
    assert constants(path) == constants(TORCH_FILE)
