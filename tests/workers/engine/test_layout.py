"""A model loads the same from each layout and dialect that its file may have."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig

from tests.workers.conftest import Make
from tests.workers.engine.pytorch_files import PERSONAPLEX, Tensors, build_wide, kept, numbers, pytorch
from tests.workers.engine.small import MID, official, speech
from workers.checkpoints.files import CONFIG, Files, files_in
from workers.checkpoints.header import read_header
from workers.engine.checkpoint import GROUP_SIZES, load
from workers.engine.config import takes_prompts
from workers.engine.layout import mlx_tensors
from workers.engine.memory import plan

STUB = {"model_type": "personaplex"}
Write = Callable[..., Files]


@cache
def wide() -> Lm:
    return build_wide()


@cache
def wide_weights() -> Tensors:
    return numbers(wide())


@pytest.fixture
def write(make: Make) -> Write:
    """Replace the model in a checkpoint folder by one of these tensors; without `config` it has none."""

    def replace(tensors: Tensors, config: dict[str, Any] | None, dtype: mx.Dtype = mx.float32) -> Files:
        folder: Path = make(config=MID)
        weights = {name: mx.array(one).astype(dtype) for name, one in tensors.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
        (folder / CONFIG).write_text(json.dumps(config))
        if config is None:
            (folder / CONFIG).unlink()
        return files_in(folder, "here")

    return replace


def same(lm: Lm, wanted: Tensors) -> bool:
    found = numbers(lm)
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_stacked_projection_is_cut_into_slices_by_hand() -> None:
    """2 slices of a depformer 2 wide: rows 0 to 5 and 6 to 11 of the projection in, 0 to 1 and 2 to 3 of that out."""
    into, out = mx.arange(24).reshape(12, 2), mx.arange(8).reshape(4, 2)
    at = "depformer.layers.4.self_attn"
    found = mlx_tensors({f"{at}.in_proj_weight": into, f"{at}.out_proj.weight": out}, pytorch=True)
    to = [f"depformer.slices.{i}.transformer.layers.4.self_attn" for i in range(2)]
    assert {name: one.tolist() for name, one in found.items()} == {
        f"{to[0]}.in_proj.weight": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]],
        f"{to[1]}.in_proj.weight": [[12, 13], [14, 15], [16, 17], [18, 19], [20, 21], [22, 23]],
        f"{to[0]}.out_proj.weight": [[0, 1], [2, 3]],
        f"{to[1]}.out_proj.weight": [[4, 5], [6, 7]],
    }


@pytest.mark.parametrize("config", [PERSONAPLEX, STUB, None], ids=["config", "stub", "none"])
@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
def test_personaplex_in_pytorchs_layout_keeps_its_first_8_slices(
    write: Write, apart: bool, config: dict[str, Any] | None
) -> None:
    files = write(pytorch(wide_weights(), 16, apart), config)
    assert same(load(files), kept(wide_weights()))
    assert takes_prompts(files)


@pytest.mark.parametrize("config", [PERSONAPLEX, STUB, None], ids=["config", "stub", "none"])
def test_personaplex_in_mlx_layout_keeps_its_first_8_slices(write: Write, config: dict[str, Any] | None) -> None:
    files = write(wide_weights(), config)
    assert same(load(files), kept(wide_weights()))
    assert takes_prompts(files)


@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
def test_a_moshi_in_pytorchs_layout_loads_and_takes_no_prompts(write: Write, apart: bool) -> None:
    files = write(pytorch(kept(wide_weights()), 8, apart), MID)
    assert same(load(files), kept(wide_weights()))
    assert not takes_prompts(files)


def test_a_personaplex_of_8_slices_is_known_by_its_config(write: Write) -> None:
    assert takes_prompts(write(kept(wide_weights()), {**MID, **STUB}))


def test_it_says_what_moshi_mlx_says_that_has_read_all_16_slices(write: Write) -> None:
    """moshi_mlx reads the stacked dialect; its own speech does not depend on the slices for the caller."""
    files = write(pytorch(wide_weights(), 16, apart=False), MID)
    oracle = Lm(LmConfig.from_config_dict(PERSONAPLEX))
    oracle.load_pytorch_weights(str(files.model), oracle.cfg, strict=True)
    assert same(oracle, wide_weights())
    oracle.depformer.slices = oracle.depformer.slices[:8]
    oracle.cfg.depformer.num_slices = 8
    heard = speech(3, 6)
    assert official(load(files), heard) == official(oracle, heard)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
def test_what_is_quantised_at_load_is_what_mlx_quantises(write: Write, bits: int, apart: bool) -> None:
    lm = load(write(pytorch(wide_weights(), 16, apart), STUB, mx.bfloat16), bits)
    oracle = Lm(LmConfig.from_config_dict(MID))
    oracle.load_weights([(name, mx.array(one).astype(mx.bfloat16)) for name, one in kept(wide_weights()).items()])
    nn.quantize(oracle, bits=bits, group_size=GROUP_SIZES[bits])  # type: ignore[attr-defined]
    assert same(lm, numbers(oracle))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("embeddings", [True, False])
def test_a_quantised_file_of_16_slices_loads(make: Make, bits: int, embeddings: bool) -> None:
    """Conversions differ in whether they quantise the embeddings."""
    quantised = build_wide()
    quantised.set_dtype(mx.bfloat16)

    def wanted(name: str, module: Module) -> bool:
        return hasattr(module, "to_quantized") and (embeddings or "emb" not in name)

    nn.quantize(quantised, bits=bits, group_size=GROUP_SIZES[bits], class_predicate=wanted)  # type: ignore[attr-defined]
    folder = make(config=MID)
    (folder / "model.safetensors").unlink()
    mx.save_safetensors(str(folder / f"model.q{bits}.safetensors"), dict(tree_flatten(quantised.parameters())))
    (folder / CONFIG).write_text(json.dumps(STUB))
    lm = load(files_in(folder, "here"))
    assert same(lm, kept(numbers(quantised)))


@pytest.mark.parametrize("quantize", [None, 4, 8])
def test_the_slices_left_out_take_no_memory(write: Write, quantize: int | None) -> None:
    files = write(pytorch(wide_weights(), 16, apart=False), STUB, mx.bfloat16)
    before = mx.get_active_memory()
    lm = load(files, quantize)
    weights = sum(one.nbytes for one in dict(tree_flatten(lm.parameters())).values())
    assert plan(files, quantize, "numpy", 1).weights == weights
    assert mx.get_active_memory() - before < 1.02 * weights
    assert sum(one.nbytes for one in read_header(files.model).values()) > 1.2 * plan(files, None, "numpy", 1).weights
