"""Where a checkpoint's files are, before anything is loaded. No mlx: the codec's process needs only Mimi's path.

MOSHI_CHECKPOINT is `hf://owner/repo`, a folder, or `synthetic:…`; all three end as a folder with

    model.q4.safetensors | model.q8.safetensors | model.safetensors   Moshi
    tokenizer-e351c8d8-checkpoint125.safetensors                      Mimi
    tokenizer_spm_32k_3.model                                         the text pieces
    config.json                                                       optional; may name the other three differently

Kyutai's MLX repositories have no config.json.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.engine.header import HeaderError, read_header

Progress = Callable[[str, int, int], None]
"""Called with what is being fetched or made, how many bytes (or parts) are done, and of how many."""


def report_nothing(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


CONFIG = "config.json"
MODELS = ("model.q8.safetensors", "model.q4.safetensors", "model.safetensors")
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER = "tokenizer_spm_32k_3.model"
TEXT_CARD = 32_000
"""Text tokens of the published Moshi, as many as its tokenizer has pieces; config.json has others as `text_card`."""
POINTER = b"version https://git-lfs.github.com/spec/"
A_POINTER = "is a git-lfs pointer, not the file itself: type git lfs pull in its folder, or fetch it anew"


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message is one line that names the setting and what to do."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one checkpoint; without a config it is the published Moshi 7B."""

    config: Path | None
    model: Path
    mimi: Path
    tokenizer: Path


def locate(spec: str, cache: Path, progress: Progress, quantize: int | None = None) -> Files:
    """Find, fetch or make the files that `spec` names, and see that they are whole.

    `cache` is where stand-ins are made; downloads go to Hugging Face's own cache. Of several models in one place the
    one that `quantize` (None, 4 or 8) asks for is taken. Raises CheckpointError.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "hf":
        from workers.checkpoints.download import fetch

        return files_in(fetch(rest.removeprefix("//"), progress, quantize), spec, quantize)
    if scheme == "synthetic":
        return files_in(_make(rest, cache, progress), spec, quantize)
    return files_in(Path(spec).expanduser(), spec, quantize)


def _make(rest: str, cache: Path, progress: Progress) -> Path:
    from workers.checkpoints.synthetic import make_standin

    try:
        return make_standin(rest, cache, progress=progress)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        reason = f"{error.filename or cache}: {error.strerror or error}"
        raise CheckpointError(f"CACHE_DIR={cache} cannot be written ({reason}); name another folder") from error


def files_in(folder: Path, spec: str, quantize: int | None = None) -> Files:
    """Return the files in a folder. Raises CheckpointError when one is missing or cut short."""
    if not folder.is_dir():
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: there is no folder {folder}; name one, or hf://owner/repo")
    present = [path.name for path in folder.iterdir()]
    config = folder / CONFIG if CONFIG in present else None
    settings = read_config(config)
    names = names_wanted(settings, present, quantize)
    for name in names:
        if name not in present:
            raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {name} is missing in {folder}; fetch the checkpoint anew")
    files = Files(config, *(folder / name for name in names))
    _see_whole(files, spec, settings.get("text_card", TEXT_CARD))
    return files


def names_wanted(config: dict[str, Any], present: list[str], quantize: int | None) -> tuple[str, str, str]:
    """Return the names of Moshi's, Mimi's and the tokenizer's file in a place that holds the files `present`."""
    preferred = [f"model.q{quantize}.safetensors", *reversed(MODELS)]
    found = [name for name in preferred if name in present]
    model = config.get("moshi_name") or (found or ["model.safetensors"])[0]
    return model, config.get("mimi_name") or MIMI, config.get("tokenizer_name") or TOKENIZER


def read_config(path: Path | None) -> dict[str, Any]:
    """Return what config.json says, {} without one. Raises CheckpointError when it is not a JSON object."""
    if path is None:
        return {}
    try:
        if is_pointer(path):
            raise CheckpointError(f"MOSHI_CHECKPOINT: {path} {A_POINTER}")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path} cannot be read ({error}); fetch it anew") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path} is not a JSON object; fetch it anew")
    return config


def is_pointer(path: Path) -> bool:
    """Tell whether a file is what git leaves in place of a large file that git-lfs has not fetched."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _see_whole(files: Files, spec: str, pieces: object) -> None:
    """Raise CheckpointError unless every file is whole and of its kind, and the tokenizer has so many pieces."""
    try:
        for path in (files.model, files.mimi, files.tokenizer):
            if is_pointer(path):
                raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {path} {A_POINTER}")
        read_header(files.model)
        read_header(files.mimi)
        found = _count_pieces(files.tokenizer)
    except HeaderError as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {error}; delete the file and fetch it anew") from error
    except OSError as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {error.filename}: {error.strerror}") from error
    if found != pieces:
        wrong = (
            f"{files.tokenizer} has {found} pieces, the model {pieces}" if found else f"{files.tokenizer} is damaged"
        )
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {wrong}; take the tokenizer of the same checkpoint, whole")


def _count_pieces(path: Path) -> int:
    """Return how many pieces a SentencePiece model has, 0 when it is none."""
    from sentencepiece import SentencePieceProcessor

    try:
        return int(SentencePieceProcessor(model_file=str(path)).vocab_size())
    except RuntimeError:
        return 0
