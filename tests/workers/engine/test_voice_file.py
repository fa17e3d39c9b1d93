import io
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from workers.engine.voice_file import VoiceError, read_voice

TORCH_FILE = Path(__file__).parent / "voices" / "torch-2.9.1.pt"
"""Written by torch 2.9.1: arange(24).reshape(3, 1, 1, 8) / 8 - 1 in bf16, arange(68).reshape(1, 17, 4) in int64."""
EMBEDDINGS = np.arange(24).reshape(3, 8) / 8 - 1
CACHE = np.arange(68).reshape(17, 4)


def test_reads_what_torch_has_written() -> None:
    voice = read_voice(TORCH_FILE)
    assert np.array_equal(voice.embeddings, EMBEDDINGS)
    assert np.array_equal(voice.cache, CACHE)


def test_reads_the_same_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "voice.safetensors"
    tensors = {"embeddings": mx.array(EMBEDDINGS[:, None, None], mx.bfloat16), "cache": mx.array(CACHE[None])}
    mx.save_safetensors(str(path), tensors)
    voice = read_voice(path)
    assert np.array_equal(voice.embeddings, EMBEDDINGS)
    assert np.array_equal(voice.cache, CACHE)


class _Harmful:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def archive(content: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("voice/data.pkl", pickle.dumps(content, protocol=2))
    return file.getvalue()


def test_a_pickle_that_wants_to_execute_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("voice.pt").write_bytes(archive(_Harmful()))
    with pytest.raises(VoiceError, match=r"it wants to run posix\.system"):
        read_voice(Path("voice.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "is no voice"),
        (b"no zip", "is no voice"),
        (TORCH_FILE.read_bytes()[:700], "is no voice"),
        (archive({"embeddings": 1}), "other things than tensors"),
        (archive(1), "other things than tensors"),
        (archive([1]), "EMPTY_LIST in its pickle is not PyTorch's"),
        (archive({}), "no cache and no embeddings"),
    ],
)
def test_what_is_no_voice_is_refused_in_one_line(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "voice.pt"
    path.write_bytes(content)
    with pytest.raises(VoiceError, match=error) as refusal:
        read_voice(path)
    assert "\n" not in str(refusal.value)


def zipped(content: bytes, storage: bytes = bytes(64), compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("voice/data.pkl", content)
        archive.writestr("voice/data/0", storage)
    return file.getvalue()


NESTED = b")q\0" + b"h\0h\0\x86q\0" * 100
"""A pair of one and the same pair of one and the same pair …: takes 2 ** 100 steps to hash."""
STORAGE = b"(X\7\0\0\0storagectorch\nBFloat16Storage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (zipped(b"\x80\2}" + NESTED + b"K\1s."), "BINGET"),
        (zipped(b"\x80\2(K\1r\xff\xff\xff\x7ft."), "memo"),
        (zipped(b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n}(}}t\x86b."), "BUILD"),
        (zipped(b"\x80\2K\1" + b"\x85" * 60_000 + b"."), "more in its archive"),
        (zipped(b"cos\n\x1b[31m\n."), r"os.\\x1b"),
        (zipped(b"\x80\2}.", compression=zipfile.ZIP_BZIP2), "compressed"),
        (
            zipped(b"\x80\2(" + (STORAGE + STORAGE.replace(b"BFloat16", b"Half")) + b"t.", bytes(33 << 20)),
            "more in its",
        ),
    ],
)
def test_a_small_file_that_wants_time_or_memory_is_refused_at_once(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "voice.pt"
    path.write_bytes(content)
    with pytest.raises(VoiceError, match=error):
        read_voice(path)


def test_a_storage_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "voice.pt"
    path.write_bytes(zipped(b"\x80\2}(" + (b"X\1\0\0\0a" + STORAGE) * 40 + b"u.", bytes(8 << 20)))
    tracemalloc.start()
    with pytest.raises(VoiceError, match="no cache and no embeddings"):
        read_voice(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20, "40 times as float32 would be 640 MB"


def test_a_safetensors_file_whose_size_overflows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voice.safetensors"
    header = b'{"embeddings":{"dtype":"F32","shape":[2147483647,2147483647,4,4],"data_offsets":[0,0]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VoiceError, match="is not a whole safetensors file"):
        read_voice(path)


@pytest.mark.parametrize(
    ("embeddings", "cache", "error"),
    [
        (np.zeros((0, 1, 1, 8)), CACHE[None], "shape"),
        (np.zeros((3, 8)), CACHE[None], "shape"),
        (np.zeros((3, 1, 1, 8)), CACHE, "shape"),
        (np.full((3, 1, 1, 8), np.nan), CACHE[None], "not finite"),
        (np.zeros((3, 1, 1, 8)), CACHE[None] * np.nan, "other things than tokens"),
    ],
)
def test_tensors_of_another_shape_are_refused(tmp_path: Path, embeddings: Any, cache: Any, error: str) -> None:
    path = tmp_path / "voice.safetensors"
    mx.save_safetensors(str(path), {"embeddings": mx.array(embeddings), "cache": mx.array(cache)})
    with pytest.raises(VoiceError, match=error):
        read_voice(path)
