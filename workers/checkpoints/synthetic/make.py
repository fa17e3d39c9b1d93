"""Making a synthetic checkpoint by its name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER, ReportProgress, report_nothing
from workers.checkpoints.synthetic.cache import fingerprint, made_once, share
from workers.checkpoints.synthetic.linear_mimi import linear_mimi
from workers.checkpoints.synthetic.lm_layout import FULL, MID, TINY, Shapes, config_of
from workers.checkpoints.synthetic.parrot import parrot_lm, parrot_pieces
from workers.checkpoints.synthetic.random_lm import WEIGHTS, Weights, random_lm, random_pieces
from workers.checkpoints.synthetic.random_mimi import random_mimi
from workers.checkpoints.synthetic.script import script
from workers.checkpoints.synthetic.script_lm import script_lm
from workers.checkpoints.synthetic.tokenizer_file import Piece, write_tokenizer
from workers.checkpoints.synthetic.weights_file import LazyTensor, in_f32, write_weights
from workers.checkpoints.synthetic.written_lm import shapes_of

SyntheticKind = Literal["script", "parrot", "random"]
_WRITTEN: dict[str, SyntheticKind] = {"script": "script", "parrot": "parrot"}
_WEIGHTS: dict[str, Weights] = {weights: weights for weights in WEIGHTS}
_SIZES = {"tiny": TINY, "mid": MID, "full": FULL}
_MODEL_FILES: dict[Weights, str] = {
    "f32": "model.safetensors",
    "bf16": "model.safetensors",
    "q4": "model.q4.safetensors",
    "q8": "model.q8.safetensors",
}
_ARGMAX = {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 25}
_SAMPLED = {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25}
_GRAMMAR = "script, parrot or random[:tiny|mid|full][:bf16|f32|q4|q8]"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make: `size` and `weights` are a choice for `random` alone."""

    kind: SyntheticKind
    size: str = "tiny"
    weights: Weights = "f32"

    @property
    def name(self) -> str:
        return f"random-{self.size}-{self.weights}" if self.kind == "random" else self.kind


def parse_recipe(spec: str) -> Recipe:
    """Return what `spec`, the part of MOSHI_CHECKPOINT after `synthetic:`, names. Raises ValueError."""
    kind, *parts = spec.split(":")
    if kind in _WRITTEN and not parts:
        return Recipe(_WRITTEN[kind])
    size = parts.pop(0) if parts and parts[0] in _SIZES else "tiny"
    weights = _WEIGHTS[parts.pop(0)] if parts and parts[0] in _WEIGHTS else "bf16"
    if kind != "random" or parts:
        wrong = f"there is no synthetic checkpoint synthetic:{spec}; after synthetic: comes {_GRAMMAR}"
        raise ValueError(f"MOSHI_CHECKPOINT: {wrong}")
    return Recipe("random", size, weights)


def make_synthetic(spec: str, cache: Path, *, progress: ReportProgress = report_nothing) -> Path:
    """Return a folder with a synthetic checkpoint, made in the folder `cache` unless it exists.

    `spec` is what follows `synthetic:` in MOSHI_CHECKPOINT: script, parrot or random[:tiny|mid|full][:bf16|f32|q4|q8].
    The folder holds config.json, the model, Mimi and the tokenizer under Kyutai's names. It is complete as soon as it
    exists, and its name changes with anything it is made from. Raises ValueError for an unknown spec.
    """
    recipe = parse_recipe(spec)
    folder = cache / f"{recipe.name}-{fingerprint()}"
    return made_once(folder, lambda unfinished: _write(recipe, unfinished, cache, progress))


def _write(recipe: Recipe, folder: Path, cache: Path, progress: ReportProgress) -> None:
    folder.mkdir()
    shapes, tensors, pieces = _model(recipe)
    write_weights(folder / _MODEL_FILES[recipe.weights], tensors, progress)
    write_tokenizer(folder / TOKENIZER, pieces)
    _write_mimi(recipe, folder / MIMI, cache, progress)
    names = {"moshi_name": _MODEL_FILES[recipe.weights], "mimi_name": MIMI, "tokenizer_name": TOKENIZER}
    sampling = {"lm_gen_config": _SAMPLED if recipe.kind == "random" else _ARGMAX}
    (folder / CONFIG).write_text(json.dumps(config_of(shapes) | names | sampling, indent=2) + "\n")


def _model(recipe: Recipe) -> tuple[Shapes, dict[str, LazyTensor], list[Piece]]:
    """Return the Moshi of a recipe: its shapes, weights and vocabulary."""
    match recipe.kind:
        case "script":
            return shapes_of(script().start), in_f32(script_lm(script())), script().pieces()
        case "parrot":
            return shapes_of(len(parrot_pieces())), in_f32(parrot_lm()), parrot_pieces()
        case "random":
            shapes = _SIZES[recipe.size]
            return shapes, random_lm(shapes, recipe.weights), random_pieces(shapes.text_card)


def _write_mimi(recipe: Recipe, path: Path, cache: Path, progress: ReportProgress) -> None:
    if recipe.kind == "script":
        write_weights(path, in_f32(linear_mimi(script().halves)), progress)
        return
    shared = cache / f"random-mimi-{fingerprint()}.safetensors"
    share(made_once(shared, lambda unfinished: write_weights(unfinished, random_mimi(), progress)), path)
