"""Where a checkpoint's files are."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.engine.conftest import Make
from workers.checkpoint_files import MIMI, MODELS, TOKENIZER, CheckpointError, Progress, files_in, locate, names_wanted


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


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


def test_an_empty_tokenizer_is_named(make: Make) -> None:
    path = make() / TOKENIZER
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        files_in(path.parent, "spec")


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

    def make_standin(rest: str, cache: Path, progress: Progress) -> Path:
        asked.append((rest, cache))
        return folder

    monkeypatch.setattr("workers.standins.make_standin", make_standin)
    assert locate("synthetic:random?size=tiny", tmp_path, silent).model == folder / "model.safetensors"
    assert asked == [("random?size=tiny", tmp_path)]


def test_a_stand_in_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        locate("synthetic:nothing-like-it", tmp_path, silent)


def test_files_are_found_without_mlx() -> None:
    program = (
        "import sys, workers.checkpoint_files, workers.engine.hub, workers.engine.text; print('mlx' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
