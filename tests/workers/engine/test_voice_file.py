import io
import os
import pickle
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
        (archive([1]), "other things than tensors"),
        (archive({}), "no cache and no embeddings"),
    ],
)
def test_what_is_no_voice_is_refused_in_one_line(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "voice.pt"
    path.write_bytes(content)
    with pytest.raises(VoiceError, match=error) as refusal:
        read_voice(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("embeddings", "cache", "error"),
    [
        (np.zeros((0, 1, 1, 8)), CACHE[None], "shape"),
        (np.zeros((3, 8)), CACHE[None], "shape"),
        (np.zeros((3, 1, 1, 8)), CACHE, "shape"),
        (np.full((3, 1, 1, 8), np.nan), CACHE[None], "not finite"),
    ],
)
def test_tensors_of_another_shape_are_refused(tmp_path: Path, embeddings: Any, cache: Any, error: str) -> None:
    path = tmp_path / "voice.safetensors"
    mx.save_safetensors(str(path), {"embeddings": mx.array(embeddings), "cache": mx.array(cache)})
    with pytest.raises(VoiceError, match=error):
        read_voice(path)
