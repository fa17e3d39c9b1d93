"""The digest of what an engine has loaded: the same for the same files, another for anything that changes tokens."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.synthetic import synthetic_cache
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER, Files, Lora, files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.engine.digest import digest_of, sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic("random:tiny:f32", synthetic_cache(tmp_path_factory))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same files elsewhere, as another machine has them."""
    return Path(shutil.copytree(folder, tmp_path / "elsewhere"))


def files(folder: Path) -> Files:
    return files_in(folder, str(folder))


def change_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_context(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"context": 77}))


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "weights": ("model.safetensors", change_last_byte),
    "codec": (MIMI, change_last_byte),
    "config": (CONFIG, change_context),
}


def test_two_machines_with_the_same_files_agree(folder: Path, copy: Path) -> None:
    digest = digest_of(files(folder), None, None)
    assert digest == digest_of(files(copy), None, None)
    assert len(digest) == 16
    assert int(digest, 16) > 0
    (copy / TOKENIZER).touch()
    assert digest == digest_of(files(copy), None, int(json.loads((copy / CONFIG).read_text())["context"]))


@pytest.mark.parametrize("what", CHANGES)
def test_another_file_makes_another_digest(folder: Path, copy: Path, what: str) -> None:
    name, change = CHANGES[what]
    change(copy / name)
    assert digest_of(files(copy), None, None) != digest_of(files(folder), None, None)


def test_so_do_the_bits_the_context_and_a_lora(folder: Path, tmp_path: Path) -> None:
    found = files(folder)
    loras = [tmp_path / "a", tmp_path / "b"]
    for path in loras:
        path.write_bytes(path.name.encode())
    added = [Lora(loras[0]), Lora(loras[1]), Lora(loras[0], scaling=1.0)]
    digests = [digest_of(found, bits, context) for bits, context in [(None, None), (4, None), (8, None), (None, 50)]]
    digests += [digest_of(replace(found, lora=lora), None, None) for lora in added]
    assert len(set(digests)) == len(digests)


def test_of_weights_that_are_quantised_already_the_setting_says_nothing_new(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    found = files(make_synthetic("random:tiny:q4", synthetic_cache(tmp_path_factory)))
    assert digest_of(found, None, None) == digest_of(found, 4, None)


def test_40_gigabytes_are_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 40 << 30)
    assert len(sample(huge)) < 2 << 20
