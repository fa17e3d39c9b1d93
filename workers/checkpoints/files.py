"""The files of a checkpoint, before anything is loaded. No mlx: the codec's process needs only Mimi's path.

Whatever MOSHI_CHECKPOINT names ends as a folder with

    model.q4.safetensors | model.q8.safetensors | model.safetensors   Moshi; fine-tunes: consolidated.safetensors
    tokenizer-e351c8d8-checkpoint125.safetensors                      Mimi
    tokenizer_spm_32k_3.model                                         the text pieces, or the only file *.model
    config.json                                                       optional; may name the other three differently
    voices/NAME.pt or voices.tgz                                      PersonaPlex: voices

Kyutai's MLX repositories have no config.json. MOSHI_LORA adds a folder with lora.safetensors and config.json.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from workers.checkpoints.header import HeaderError, read_header

ReportProgress = Callable[[str, int, int], None]
"""Called with what is being fetched or made, how many bytes (or parts) are done, and of how many."""
SETTING = "MOSHI_CHECKPOINT"
CONFIG = "config.json"
MODELS = ("model.safetensors", "model.q4.safetensors", "model.q8.safetensors", "consolidated.safetensors")
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER = "tokenizer_spm_32k_3.model"
FILE_NAMES = ("moshi_name", "mimi_name", "tokenizer_name", "lora_name")
"""Fields of config.json that name a file."""
LORA = "lora.safetensors"
LORA_SCALING = 2.0
"""What moshi-finetune multiplies a LoRA with unless its config says otherwise."""
VOICES = "voices"
POINTER = b"version https://git-lfs.github.com/spec/"
IS_POINTER = "is a git-lfs pointer, not the file itself: type git lfs pull in its folder, or fetch it anew"


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message is one line that names the setting and what to do."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A fine-tune that is added to the weights: `scaling` times the product of its matrices of `rank`, None unknown."""

    weights: Path
    scaling: float = LORA_SCALING
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one checkpoint; without a config it is the published Moshi 7B. `voices` is a folder of NAME.pt.

    `setting` is the one that names it, for error texts.
    """

    config: Path | None
    model: Path
    mimi: Path
    tokenizer: Path
    lora: Lora | None = None
    voices: Path | None = None
    setting: str = SETTING


def report_nothing(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def files_in(folder: Path, spec: str, quantize: int | None = None, name: str = SETTING) -> Files:
    """Return the files in a folder. Raises CheckpointError when one is missing, cut short or of another kind.

    Of several models the one that `quantize` (None, 4 or 8) asks for is taken. `name` is that of the setting.
    """
    setting = f"{name}={spec}"
    if not folder.is_dir():
        raise CheckpointError(f"{setting}: there is no folder {folder}; name one, or hf://owner/repo")
    present = [path.name for path in folder.iterdir()]
    config = folder / CONFIG if CONFIG in present else None
    settings = read_config(config, name)
    names = names_wanted(settings, present, quantize)
    if missing := missing_of(names, present):
        raise CheckpointError(f"{setting}: {missing}")
    voices = folder / VOICES if (folder / VOICES).is_dir() else None
    model, mimi, tokenizer = (folder / name for name in names)
    files = Files(config, model, mimi, tokenizer, voices=voices, setting=name)
    _check_files(files, setting, settings.get("text_card"))
    return files


def lora_in(folder: Path, spec: str) -> Lora:
    """Return the LoRA in a folder. Raises CheckpointError when it is missing, or its file or config is damaged."""
    setting, path, config = f"MOSHI_LORA={spec}", folder / LORA, folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{setting}: there is no {path}; name a folder that holds one, or hf://owner/repo")
    settings = read_config(config if config.exists() else None, "MOSHI_LORA")
    with _refused(setting):
        _refuse_pointer(path, setting)
        read_header(path)
    try:
        rank = settings.get("lora_rank")
        scaling = float(settings.get("lora_scaling", LORA_SCALING))
        if not isfinite(scaling):
            raise ValueError(f"lora_scaling is {scaling}")
        return Lora(path, scaling, None if rank is None else int(rank))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{setting}: lora_scaling or lora_rank in {config} is wrong ({error})") from error


def names_wanted(config: dict[str, Any], present: list[str], quantize: int | None) -> tuple[str, str, str]:
    """Return the names of Moshi's, Mimi's and the tokenizer's file in a place that holds the files `present`."""
    found = [name for name in (f"model.q{quantize}.safetensors", *MODELS) if name in present]
    model = config.get("moshi_name") or (found or MODELS)[0]
    tokenizers = [TOKENIZER] if TOKENIZER in present else [name for name in present if name.endswith(".model")]
    tokenizer = tokenizers[0] if len(tokenizers) == 1 else TOKENIZER
    return model, config.get("mimi_name") or MIMI, config.get("tokenizer_name") or tokenizer


def missing_of(names: Sequence[str], present: Sequence[str]) -> str:
    """Return what is missing of `names` where the files `present` are, and what to do; "" for nothing."""
    if names[0] not in present and LORA in present:
        base = "to what it was made from, hf://kyutai/moshiko-pytorch-bf16 say"
        return f"holds a LoRA, no model; set MOSHI_LORA to it, and MOSHI_CHECKPOINT {base}"
    missing = next((name for name in names if name not in present), "")
    if missing.startswith("hf://"):
        return f"config.json names {missing}: fetch it, put it into a folder with the others, and name it there"
    return f"{missing} is missing; fetch the checkpoint anew, or name another one" if missing else ""


def read_config(path: Path | None, setting: str = SETTING) -> dict[str, Any]:
    """Return the content of config.json, {} without one. Raises CheckpointError when it is not a JSON object."""
    if path is None:
        return {}
    try:
        content = path.read_bytes()
        config = {} if content.startswith(POINTER) else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{setting}: {path} cannot be read ({error}); fetch it anew") from error
    if content.startswith(POINTER):
        raise CheckpointError(f"{setting}: {path} {IS_POINTER}")
    if not isinstance(config, dict):
        raise CheckpointError(f"{setting}: {path} is not a JSON object; fetch it anew")
    for name in FILE_NAMES:
        if not isinstance(config.get(name), str | None):
            raise CheckpointError(f"{setting}: {name} in {path} is not the name of a file; fetch it anew")
    return config


def _check_files(files: Files, setting: str, pieces: object) -> None:
    """Raise CheckpointError unless every file is whole and of its kind, and the tokenizer has so many pieces.

    None: as many as the model has text tokens, by the rows of its text head.
    """
    with _refused(setting):
        for path in (files.model, files.mimi, files.tokenizer):
            _refuse_pointer(path, setting)
        head = read_header(files.model).get("text_linear.weight")
        read_header(files.mimi)
        found = _count_pieces(files.tokenizer)
    pieces = pieces or (head.shape[0] if head else found)
    if found != pieces or not found:
        wrong = f"has {found} pieces, the model {pieces}" if found else "is damaged"
        hint = "take the tokenizer of the same checkpoint, whole"
        raise CheckpointError(f"{setting}: {files.tokenizer} {wrong}; {hint}")


@contextmanager
def _refused(setting: str) -> Iterator[None]:
    """Raise CheckpointError when a file is damaged or cannot be read."""
    try:
        yield
    except HeaderError as error:
        raise CheckpointError(f"{setting}: {error}; delete the file and fetch it anew") from error
    except OSError as error:
        raise CheckpointError(f"{setting}: {error.filename}: {error.strerror}") from error


def _refuse_pointer(path: Path, setting: str) -> None:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{setting}: {path} {IS_POINTER}")


def _count_pieces(path: Path) -> int:
    """Return how many pieces a SentencePiece model has, 0 when it is none."""
    from sentencepiece import SentencePieceProcessor

    try:
        return int(SentencePieceProcessor(model_file=str(path)).vocab_size())
    except RuntimeError:
        return 0
