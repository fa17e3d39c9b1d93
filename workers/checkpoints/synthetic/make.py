"""Making a synthetic checkpoint by its name: a folder that exists in full or not at all.

That holds whoever else makes the same one or is killed while making it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from workers.checkpoints.files import CONFIG, MIMI, SETTING, TOKENIZER, VOICES, ReportProgress, report_nothing
from workers.checkpoints.made_once import made_once
from workers.checkpoints.synthetic.linear_mimi import linear_mimi
from workers.checkpoints.synthetic.lm_layout import FULL, MID, TINY, Shapes, config_of
from workers.checkpoints.synthetic.parrot import parrot_lm, parrot_pieces
from workers.checkpoints.synthetic.personaplex import PERSONAPLEX_SIZES, STUB_CONFIG, personaplex_lm, write_voices
from workers.checkpoints.synthetic.random_lm import random_lm, random_pieces, random_tensors
from workers.checkpoints.synthetic.random_mimi import random_mimi
from workers.checkpoints.synthetic.script import script
from workers.checkpoints.synthetic.script_lm import script_lm
from workers.checkpoints.synthetic.stt import (
    STT_SIZES,
    spoken_frames,
    stt_config,
    stt_lm,
    stt_pieces,
    stt_shapes,
    stt_tensors,
)
from workers.checkpoints.synthetic.tokenizer_file import Piece, write_tokenizer
from workers.checkpoints.synthetic.weights_file import LazyTensor, in_f32, write_weights
from workers.checkpoints.synthetic.written_lm import shapes_of

_PACKAGE = Path(__file__).parent
_SIZES = {"tiny": TINY, "mid": MID, "full": FULL}
_CHOICES: dict[str, tuple[list[str], ...]] = {
    "script": (),
    "parrot": (),
    "stt": (),
    "personaplex": ([*PERSONAPLEX_SIZES],),
    "random": ([*_SIZES], ["bf16", "f32", "q4", "q8"]),
    "stt:random": ([*STT_SIZES],),
}
"""What may follow each kind: one of each list, else its first."""
_GRAMMAR = (
    "script, parrot, personaplex[:tiny|mid] or random[:tiny|mid|full][:bf16|f32|q4|q8];"
    " for TRANSCRIBE stt or stt:random[:tiny|mid|full]"
)
_ARGMAX = {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 25}
_SAMPLED = {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25}


def parse_spec(spec: str, setting: str = SETTING) -> list[str]:
    """Return the parts of `spec`, the part of MOSHI_CHECKPOINT or TRANSCRIBE after `synthetic:`. Raises ValueError.

    They are the kind, with - for :, and what was chosen of `_CHOICES`.
    """
    for kind, choices in _CHOICES.items():
        options = "".join(f"(?::({'|'.join(names)}))?" for names in choices)
        if match := re.fullmatch(kind + options, spec):
            chosen = (name or names[0] for name, names in zip(match.groups(), choices, strict=True))
            return [kind.replace(":", "-"), *chosen]
    wrong = f"there is no synthetic checkpoint synthetic:{spec}; after synthetic: comes {_GRAMMAR}"
    raise ValueError(f"{setting}: {wrong}")


def make_synthetic(
    spec: str, cache_folder: Path, *, progress: ReportProgress = report_nothing, setting: str = SETTING
) -> Path:
    """Return a folder with a synthetic checkpoint, made in `cache_folder` unless it exists; `spec` as in `parse_spec`.

    Its files have Kyutai's names. Its own name changes with anything it is made from. Raises ValueError.
    """
    parts = parse_spec(spec, setting)
    folder = cache_folder / f"{'-'.join(parts)}-{fingerprint()}"
    return made_once(folder, lambda unfinished: _write(parts, unfinished, cache_folder, progress))


def _write(parts: Sequence[str], folder: Path, cache_folder: Path, progress: ReportProgress) -> None:
    folder.mkdir()
    kind, quantised = parts[0], parts[-1] in ("q4", "q8")
    model = f"model.{parts[-1]}.safetensors" if quantised else "model.safetensors"
    shapes, tensors, pieces = _model(parts)
    write_weights(folder / model, tensors, progress)
    write_tokenizer(folder / TOKENIZER, pieces)
    if kind in ("script", "stt"):
        spoken = np.stack([frame.half for frame in spoken_frames()])
        write_weights(folder / MIMI, in_f32(linear_mimi(script().halves, spoken)), progress)
    else:
        shared = cache_folder / f"random-mimi-{fingerprint()}.safetensors"
        made_once(shared, lambda unfinished: write_weights(unfinished, random_mimi(), progress))
        share(shared, folder / MIMI)
    if kind == "personaplex":
        write_voices(folder / VOICES, shapes.dim)
        (folder / CONFIG).write_text(json.dumps(STUB_CONFIG) + "\n")
        return
    names = {"moshi_name": model, "mimi_name": MIMI, "tokenizer_name": TOKENIZER}
    sampling = {"lm_gen_config": _SAMPLED if kind == "random" else _ARGMAX}
    config = stt_config(shapes) if kind.startswith("stt") else config_of(shapes)
    (folder / CONFIG).write_text(json.dumps(config | names | sampling, indent=2) + "\n")


def _model(parts: Sequence[str]) -> tuple[Shapes, dict[str, LazyTensor], list[Piece]]:
    """Return a Moshi: its shapes, weights and vocabulary."""
    match parts:
        case ["script"]:
            return shapes_of(script().start), in_f32(script_lm(script())), script().pieces()
        case ["parrot"]:
            return shapes_of(len(parrot_pieces())), in_f32(parrot_lm()), parrot_pieces()
        case ["stt"]:
            return stt_shapes(), in_f32(stt_lm()), stt_pieces()
        case ["stt-random", size]:
            shapes = STT_SIZES[size]
            return shapes, random_tensors(stt_tensors(shapes), "bf16"), random_pieces(shapes.text_card)
        case ["personaplex", size]:
            shapes = PERSONAPLEX_SIZES[size]
            return shapes, personaplex_lm(shapes), random_pieces(shapes.text_card)
        case [_, size, weights]:
            return _SIZES[size], random_lm(_SIZES[size], weights), random_pieces(_SIZES[size].text_card)
    raise AssertionError(parts)


@cache
def fingerprint() -> str:
    """Return 12 hexadecimal digits that change with anything that synthetic checkpoints are made from."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".wav", ".flac", ".json"):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def share(path: Path, copy: Path) -> None:
    """Put a file of the cache at `copy` too, without a second copy of its bytes where the file system can."""
    try:
        copy.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, copy)
