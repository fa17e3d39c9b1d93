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
        from workers.engine.hub import fetch

        return files_in(fetch(rest.removeprefix("//"), progress, quantize), spec, quantize)
    if scheme == "synthetic":
        return files_in(_make(rest, cache, progress), spec, quantize)
    return files_in(Path(spec).expanduser(), spec, quantize)


def _make(rest: str, cache: Path, progress: Progress) -> Path:
    from workers.standins import make_standin

    try:
        return make_standin(rest, cache, progress=progress)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def files_in(folder: Path, spec: str, quantize: int | None = None) -> Files:
    """Return the files in a folder. Raises CheckpointError when one is missing or cut short."""
    if not folder.is_dir():
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: there is no folder {folder}; name one, or hf://owner/repo")
    present = [path.name for path in folder.iterdir()]
    config = folder / CONFIG if CONFIG in present else None
    names = names_wanted(read_config(config), present, quantize)
    for name in names:
        if name not in present:
            raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {name} is missing in {folder}; fetch the checkpoint anew")
    files = Files(config, *(folder / name for name in names))
    _see_whole(files, spec)
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
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path} cannot be read ({error}); fetch it anew") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {path} is not a JSON object; fetch it anew")
    return config


def _see_whole(files: Files, spec: str) -> None:
    try:
        read_header(files.model)
        read_header(files.mimi)
    except HeaderError as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {error}; delete the file and fetch it anew") from error
    if not files.tokenizer.stat().st_size:
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: {files.tokenizer} is empty; delete it and fetch it anew")
