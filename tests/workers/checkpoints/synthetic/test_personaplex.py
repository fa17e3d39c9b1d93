"""The synthetic PersonaPlex has NVIDIA's files, and loads as the random Moshi that it was written from."""

import json
import re
from math import prod

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.synthetic import synthetic_cache
from tests.workers.checkpoints.synthetic.conftest import Made
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.header import read_header
from workers.checkpoints.locate import locate
from workers.checkpoints.synthetic.lm_layout import FULL
from workers.checkpoints.synthetic.personaplex import personaplex_lm
from workers.checkpoints.synthetic.random_lm import values
from workers.checkpoints.synthetic.weights_file import to_bf16
from workers.checkpoints.voices import find_voice, voice_names
from workers.engine.checkpoint import load
from workers.engine.config import takes_prompts
from workers.engine.voice_file import read_voice


def test_its_files_are_those_of_nvidia(made: Made) -> None:
    folder = made("personaplex")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", MIMI, TOKENIZER, CONFIG, "voices"}
    assert "dim" not in json.loads((folder / CONFIG).read_text())
    shapes = {name: one.shape for name, one in read_header(folder / "model.safetensors").items()}
    assert shapes["depformer.layers.0.self_attn.in_proj_weight"] == (16 * 3 * 64, 64)
    assert shapes["depformer.layers.1.self_attn.out_proj.weight"] == (16 * 64, 64)
    assert shapes["transformer.layers.0.self_attn.in_proj_weight"] == (3 * 256, 256)
    assert shapes["out_norm.alpha"] == (1, 1, 256)
    assert {f"depformer_in.{i}.weight" for i in range(16)} <= shapes.keys()
    assert {f"depformer_emb.{i}.weight" for i in range(15)} <= shapes.keys()
    assert not {"depformer_in.16.weight", "depformer_emb.15.weight"} & shapes.keys()


@pytest.mark.parametrize("size", ["tiny", pytest.param("mid", marks=pytest.mark.slow)])
def test_it_loads_as_the_moshi_it_was_written_from(tmp_path_factory: pytest.TempPathFactory, size: str) -> None:
    files = locate(f"synthetic:personaplex:{size}", synthetic_cache(tmp_path_factory), silent)
    lm = load(files)
    assert takes_prompts(files)
    assert (lm.cfg.transformer.head_dim, lm.cfg.depformer.transformer.head_dim) == (128, 64)
    weights = dict(tree_flatten(lm.parameters()))
    assert not [name for name in weights if name.startswith("depformer.slices.8")]
    for name, weight in weights.items():
        assert np.array_equal(np.array(weight.view(mx.uint16)), to_bf16(values(name, weight.shape))), name


def test_at_full_size_it_has_as_many_parameters_as_nvidias() -> None:
    """As the pages of the models say; without slices 8 to 15 it is Kyutai's Moshi, whose slices share their norms."""
    sizes = {name: prod(one.shape) for name, one in personaplex_lm(FULL).items()}
    assert sum(sizes.values()) == 8_371_408_896
    half = ("self_attn.in_proj_weight", "self_attn.out_proj.weight")
    dropped = [rf"(linears|depformer_in|gating)\.{i}\." for i in range(8, 16)]
    dropped += [rf"depformer_emb\.{i}\." for i in range(7, 15)]
    kept = {name: size for name, size in sizes.items() if not any(re.search(part, name) for part in dropped)}
    moshi = {name: size // 2 if "depformer" in name and name.endswith(half) else size for name, size in kept.items()}
    assert sum(moshi.values()) == 7_687_729_152


def test_its_voices_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = locate("synthetic:personaplex", synthetic_cache(tmp_path_factory), silent)
    assert voice_names(files) == ["NATF0", "NATM0"]
    first, second = (read_voice(find_voice(files, name)) for name in voice_names(files))
    assert first.embeddings.shape == (25, 256)
    assert first.cache.shape == (17, 4)
    assert (first.cache[0] == 3).all()
    assert 0 <= first.cache[1:].min() <= first.cache.max() < 2048
    assert not np.array_equal(first.embeddings, second.embeddings)
