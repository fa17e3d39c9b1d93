"""Checkpoints on disk, in Kyutai's layout, with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.workers.engine.small import MID, build
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER
from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import write_tokenizer

NAMES = {None: "model.safetensors", 4: "model.q4.safetensors", 8: "model.q8.safetensors"}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a checkpoint folder; without `config` there is no config.json, as in Kyutai's MLX repositories."""

    def write(dtype: mx.Dtype = mx.bfloat16, bits: int | None = None, config: dict[str, Any] | None = MID) -> Path:
        folder = tmp_path / f"checkpoint-{bits}"
        folder.mkdir()
        weights = dict(tree_flatten(build("mid", dtype, bits).parameters()))
        mx.save_safetensors(str(folder / NAMES[bits]), weights)
        mx.save_safetensors(str(folder / MIMI), {"mimi": mx.zeros(3)})
        write_tokenizer(folder / TOKENIZER, random_pieces((config or MID)["text_card"]))
        if config is not None:
            (folder / CONFIG).write_text(json.dumps(config))
        return folder

    return write
