"""Where a checkpoint's files are."""

from pathlib import Path

import pytest

from tests.workers.conftest import Make
from workers.checkpoints.files import (
    CONFIG,
    MIMI,
    MODELS,
    TOKENIZER,
    CheckpointError,
    ReportProgress,
    files_in,
    names_wanted,
)
from workers.checkpoints.locate import locate
from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import write_tokenizer


def silent(what: str, done: int, total: int) -> None:
    """ReportProgress that nobody watches."""


def test_a_folder_is_found(make: Make) -> None:
    folder = make(bits=4)
    files = locate(str(folder), Path("unused"), silent)
    assert files.model == folder / "model.q4.safetensors"
    assert files.mimi == folder / MIMI
    assert files.tokenizer == folder / TOKENIZER
    assert files.config == folder / "config.json"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^MOSHI_CHECKPOINT=.*nowhere: there is no folder"):
        locate(str(tmp_path / "nowhere"), tmp_path, silent)


@pytest.mark.parametrize("name", ["model.safetensors", MIMI, TOKENIZER])
def test_a_missing_file_is_named(make: Make, name: str) -> None:
    folder = make()
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"MOSHI_CHECKPOINT=spec: {name} is missing"):
        files_in(folder, "spec")


@pytest.mark.parametrize("name", ["model.safetensors", MIMI])
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_file_cut_short_is_named(make: Make, name: str, left: int) -> None:
    path = make() / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=f"MOSHI_CHECKPOINT=spec: .*{name}.*fetch it anew"):
        files_in(path.parent, "spec")


FILES = [CONFIG, "model.safetensors", MIMI, TOKENIZER]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def refusal(folder: Path) -> str:
    """Return in which words a folder is refused: one line that names the setting."""
    with pytest.raises(CheckpointError) as caught:
        files_in(folder, "spec")
    said = str(caught.value)
    assert said.startswith("MOSHI_CHECKPOINT")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", FILES)
def test_a_git_lfs_pointer_is_named(make: Make, name: str) -> None:
    path = make() / name
    path.write_text(POINTER)
    said = refusal(path.parent)
    assert f"{path} is a git-lfs pointer" in said
    assert "git lfs pull" in said


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html>404</html>", b"\xff\xfe\xfd" * 99])
def test_a_file_with_something_else_in_it_is_named(make: Make, name: str, content: bytes) -> None:
    path = make() / name
    path.write_bytes(content)
    assert str(path) in refusal(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_named(make: Make, name: str) -> None:
    path = make() / name
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(path.parent)


@pytest.mark.parametrize(("name", "other"), [(TOKENIZER, MIMI), (MIMI, TOKENIZER), (CONFIG, MIMI)])
def test_another_file_of_the_checkpoint_in_its_place_is_named(make: Make, name: str, other: str) -> None:
    folder = make()
    (folder / name).write_bytes((folder / other).read_bytes())
    assert name in refusal(folder)


def test_a_tokenizer_cut_anywhere_is_named_unless_all_its_pieces_are_there(make: Make) -> None:
    path = make() / TOKENIZER
    whole, refused = path.read_bytes(), 0
    for left in range(1, len(whole), 97):
        path.write_bytes(whole[:left])
        refused += str(path) in refusal(path.parent)
    assert refused == len(range(1, len(whole), 97))
    path.write_bytes(whole)
    assert files_in(path.parent, "spec").tokenizer == path


def test_the_tokenizer_of_another_model_is_named(make: Make) -> None:
    path = make() / TOKENIZER
    write_tokenizer(path, random_pieces(800))
    assert "has 800 pieces, the model 1000" in refusal(path.parent)


@pytest.mark.parametrize(
    ("quantize", "model"), [(None, "model.safetensors"), (4, "model.q4.safetensors"), (8, "model.q8.safetensors")]
)
def test_of_several_models_the_one_asked_for_is_taken(quantize: int | None, model: str) -> None:
    assert names_wanted({}, list(MODELS), quantize) == (model, MIMI, TOKENIZER)


def test_the_config_may_name_the_files() -> None:
    config = {"moshi_name": "a.safetensors", "mimi_name": "b.safetensors", "tokenizer_name": "c.model"}
    assert names_wanted(config, list(MODELS), None) == ("a.safetensors", "b.safetensors", "c.model")


def test_a_stand_in_is_made(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    asked = []

    def make_synthetic(rest: str, cache: Path, progress: ReportProgress) -> Path:
        asked.append((rest, cache))
        return folder

    monkeypatch.setattr("workers.checkpoints.synthetic.make_synthetic", make_synthetic)
    assert locate("synthetic:random?size=tiny", tmp_path, silent).model == folder / "model.safetensors"
    assert asked == [("random?size=tiny", tmp_path)]


def test_a_stand_in_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        locate("synthetic:nothing-like-it", tmp_path, silent)


@pytest.mark.parametrize("kind", ["script", "random"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, kind: str) -> None:
    """A file where the folder should be: what a read-only folder does to root as well."""
    occupied = tmp_path / "cache"
    occupied.write_text("")
    with pytest.raises(CheckpointError, match=r"^CACHE_DIR=.*cannot be written .*name another folder$"):
        locate(f"synthetic:{kind}", occupied / "below", silent)
