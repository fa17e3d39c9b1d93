"""Where a checkpoint's files are."""

from pathlib import Path
from typing import Any

import pytest

from tests.synthetic import synthetic_cache
from tests.workers.conftest import Make
from tests.workers.engine.small import MID
from workers.checkpoints.files import CONFIG, MIMI, MODELS, TOKENIZER, CheckpointError, files_in, names_wanted
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.locate import locate
from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import write_tokenizer

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


def test_a_folder_is_found(make: Make) -> None:
    folder = make(bits=4)
    files = locate(str(folder), Path("unused"), silent)
    assert files.model == folder / "model.q4.safetensors"
    assert (files.mimi, files.tokenizer, files.config) == (folder / MIMI, folder / TOKENIZER, folder / CONFIG)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_named(make: Make, name: str) -> None:
    folder = make()
    (folder / name).unlink()
    assert f"spec: {name} is missing" in refusal(folder)
    assert "there is no folder" in refusal(folder / "nowhere")


@pytest.mark.parametrize("name", FILES[1:3])
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_file_cut_short_is_named(make: Make, name: str, left: int) -> None:
    path = make() / name
    path.write_bytes(path.read_bytes()[:left])
    assert name in refusal(path.parent)
    assert "fetch it anew" in refusal(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_git_lfs_pointer_is_named(make: Make, name: str) -> None:
    path = make() / name
    path.write_text(POINTER)
    said = refusal(path.parent)
    assert f"{path} is a git-lfs pointer" in said
    assert "git lfs pull" in said


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html>404</html>", b"\xff\xfe\xfd" * 99, "another", "folder"])
def test_something_else_in_the_place_of_a_file_is_named(make: Make, name: str, content: bytes | str) -> None:
    """Other bytes, another file of the checkpoint, a folder."""
    path = make() / name
    other = path.parent / (MIMI if name in (CONFIG, TOKENIZER) else TOKENIZER)
    path.unlink()
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else other.read_bytes())
    assert str(path) in refusal(path.parent)


def test_a_tokenizer_cut_anywhere_or_of_another_model_is_named(make: Make) -> None:
    path = make() / TOKENIZER
    whole = path.read_bytes()
    for left in range(1, len(whole), 971):
        path.write_bytes(whole[:left])
        assert str(path) in refusal(path.parent)
    write_tokenizer(path, random_pieces(800))
    assert "has 800 pieces, the model 1000" in refusal(path.parent)


@pytest.mark.parametrize("config", [MID, None], ids=["config", "none"])
def test_a_tokenizer_of_another_language_has_as_many_pieces_as_the_model(
    make: Make, config: dict[str, Any] | None
) -> None:
    """Under Kyutai's name or another; without a config the model's text head says how many."""
    folder = make(config=config)
    assert files_in(folder, "spec").tokenizer == folder / TOKENIZER
    write_tokenizer(folder / TOKENIZER, random_pieces(999))
    assert "has 999 pieces, the model 1000" in refusal(folder)
    (folder / TOKENIZER).unlink()
    write_tokenizer(folder / "japanese.model", random_pieces(1000))
    assert files_in(folder, "spec").tokenizer == folder / "japanese.model"
    write_tokenizer(folder / "other.model", random_pieces(1000))
    assert f"{TOKENIZER} is missing" in refusal(folder)


def test_a_config_that_takes_a_file_from_elsewhere_says_what_to_do(make: Make) -> None:
    folder = make(config={**MID, "mimi_name": "hf://kyutai/moshiko-pytorch-bf16/mimi.safetensors"})
    assert "config.json names hf://kyutai/moshiko-pytorch-bf16/mimi.safetensors: fetch it" in refusal(folder)


def test_a_model_that_belongs_to_a_lora_is_not_loaded_without_it(make: Make) -> None:
    folder = make(config={**MID, "lora": True, "lora_name": "lora.safetensors"})
    with pytest.raises(CheckpointError, match=r"belongs to a LoRA, lora\.safetensors: set MOSHI_LORA"):
        locate(str(folder), Path("unused"), silent)


def test_the_whole_model_of_a_fine_tune_is_found(make: Make) -> None:
    folder = make(config=None)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert files_in(folder, "spec").model == folder / "consolidated.safetensors"


@pytest.mark.parametrize(
    ("quantize", "model"), [(None, "model.safetensors"), (4, "model.q4.safetensors"), (8, "model.q8.safetensors")]
)
def test_of_several_models_the_one_asked_for_is_taken(quantize: int | None, model: str) -> None:
    assert names_wanted({}, list(MODELS), quantize) == (model, MIMI, TOKENIZER)


def test_the_config_may_name_the_files() -> None:
    config = {"moshi_name": "a.safetensors", "mimi_name": "b.safetensors", "tokenizer_name": "c.model"}
    assert names_wanted(config, list(MODELS), None) == ("a.safetensors", "b.safetensors", "c.model")


def test_a_synthetic_checkpoint_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = synthetic_cache(tmp_path_factory)
    assert locate("synthetic:random", cache, silent).model.parent.parent == cache
    with pytest.raises(CheckpointError, match="there is no synthetic checkpoint"):
        locate("synthetic:nothing-like-it", cache, silent)


@pytest.mark.parametrize("kind", ["script", "random"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, kind: str) -> None:
    """A file where the folder should be: what a read-only folder does to root as well."""
    occupied = tmp_path / "cache"
    occupied.write_text("")
    with pytest.raises(CheckpointError, match=r"^CACHE_DIR=.*cannot be written .*name another folder$"):
        locate(f"synthetic:{kind}", occupied / "below", silent)
