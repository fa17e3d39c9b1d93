"""Fine-tunes by LoRA: the weights are W + scaling * B @ A, computed here with numpy."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.workers.conftest import Make
from tests.workers.engine.pytorch_files import Tensors, build_wide, kept, numbers, pytorch
from tests.workers.engine.small import MID
from workers.checkpoints.files import CONFIG, LORA, CheckpointError, Files
from workers.checkpoints.files import report_nothing as silent
from workers.checkpoints.locate import locate
from workers.engine.checkpoint import GROUP_SIZES, load

RANK, SCALING = 6, 1.5


@cache
def base() -> Tensors:
    """Return a Moshi of 16 slices, by moshi_mlx's names."""
    return numbers(build_wide())


def is_linear(name: str) -> bool:
    return "norm" not in name and "emb" not in name


@cache
def matrices() -> tuple[Tensors, Tensors]:
    """Return A and B of each linear module, by moshi_mlx's names; for the others dummies that are not stored."""
    random, first, second = np.random.default_rng(5), Tensors(), Tensors()
    for name, weight in base().items():
        first[name] = second[name] = np.zeros((1, 1), np.float32)
        if is_linear(name):
            first[name] = random.uniform(-0.2, 0.2, (RANK, weight.shape[1])).astype(np.float32)
            second[name] = random.uniform(-0.2, 0.2, (weight.shape[0], RANK)).astype(np.float32)
    return first, second


def lora(apart: bool) -> Tensors:
    """Return the LoRA as moshi-finetune stores it."""
    stored = {}
    for letter, one in zip("AB", matrices(), strict=True):
        for name, matrix in pytorch(one, 16, apart).items():
            if not name.endswith(".alpha") and "emb" not in name:
                module = name.replace("in_proj_weight", "in_proj.weight").removesuffix(".weight")
                stored[f"{module}.lora_{letter}.weight"] = matrix
    return stored


def fused(scaling: float = SCALING) -> Tensors:
    """Return the weights that the fine-tune has, without slices 8 to 15."""
    first, second = matrices()
    changes = {name: scaling * second[name] @ first[name] for name in base() if is_linear(name)}
    return {name: one + changes.get(name, 0) for name, one in kept(base()).items()}


def save(path: Path, tensors: Tensors, dtype: mx.Dtype = mx.float32) -> None:
    mx.save_safetensors(str(path), {name: mx.array(one).astype(dtype) for name, one in tensors.items()})


def place(make: Make, model: Tensors, stored: Tensors, config: Any, dtype: mx.Dtype = mx.float32) -> tuple[Path, Path]:
    """Return a checkpoint folder and one with a LoRA."""
    folder: Path = make(config=MID)
    save(folder / "model.safetensors", model, dtype)
    tuned = folder / "tuned"
    tuned.mkdir()
    save(tuned / LORA, stored)
    if config is not None:
        (tuned / CONFIG).write_text(json.dumps(config))
    return folder, tuned


def located(folders: tuple[Path, Path]) -> Files:
    folder, tuned = folders
    return locate(str(folder), folder / "cache", silent, lora=str(tuned))


def close(found: Tensors, wanted: Tensors) -> bool:
    return found.keys() == wanted.keys() and all(np.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)


CONFIGURED = {"lora": True, "lora_rank": RANK, "lora_scaling": SCALING}


@pytest.mark.parametrize("tuned", [False, True], ids=["lora stacked", "lora apart"])
@pytest.mark.parametrize("model", ["mlx", "stacked", "apart"])
def test_it_is_added_to_every_linear_module(make: Make, model: str, tuned: bool) -> None:
    weights = base() if model == "mlx" else pytorch(base(), 16, model == "apart")
    lm = load(located(place(make, weights, lora(tuned), CONFIGURED)))
    assert close(numbers(lm), fused())
    assert not close(numbers(lm), fused(0.0))


def test_without_a_config_the_scaling_is_2_and_the_rank_that_of_the_matrices(make: Make) -> None:
    assert close(numbers(load(located(place(make, base(), lora(True), None)))), fused(2.0))


def test_a_stacked_projection_may_have_one_a_for_all_slices(make: Make) -> None:
    at = "depformer.layers.1.self_attn.in_proj"
    random = np.random.default_rng(6)
    first, second = (
        random.standard_normal((RANK, 256), np.float32),
        random.standard_normal((16 * 768, RANK), np.float32),
    )
    stored = {f"{at}.lora_A.weight": first, f"{at}.lora_B.weight": second}
    found = numbers(load(located(place(make, base(), stored, CONFIGURED))))
    for i, part in enumerate(np.split(second, 16)[:8]):
        name = f"depformer.slices.{i}.transformer.layers.1.self_attn.in_proj.weight"
        assert np.allclose(found[name], base()[name] + SCALING * part @ first, atol=1e-4)


def test_trained_embeddings_take_the_place_of_the_models(make: Make) -> None:
    names = {
        "text_emb.weight": "text_emb.weight",
        "emb.3.weight": "audio_embs.3.weight",
        "depformer_text_emb.weight": "depformer.slices.0.emb.weight",
        "depformer_emb.4.weight": "depformer.slices.5.emb.weight",
    }
    trained = {name: base()[target] + 1 for name, target in names.items()}
    found = numbers(load(located(place(make, base(), lora(True) | trained, CONFIGURED | {"ft_embed": True}))))
    assert close(found, fused() | {target: base()[target] + 1 for target in names.values()})


@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_added_before_the_weights_are_quantised(make: Make, bits: int) -> None:
    files = located(place(make, base(), lora(True), CONFIGURED, mx.bfloat16))
    wanted = load(files)
    assert wanted.out_norm.weight.dtype == wanted.text_linear.weight.dtype == mx.bfloat16
    nn.quantize(wanted, bits=bits, group_size=GROUP_SIZES[bits])  # type: ignore[attr-defined]
    found = numbers(load(files, bits))
    assert all(np.array_equal(found[name], one) for name, one in numbers(wanted).items())


def changed(**matrices_of_head: tuple[int, int] | None) -> Tensors:
    """Return a LoRA whose matrices A and B of the text head have other shapes, None for none."""
    stored = lora(True)
    for letter, shape in matrices_of_head.items():
        name = f"text_linear.lora_{letter}.weight"
        stored.pop(name)
        stored |= {name: np.zeros(shape, np.float32)} if shape else {}
    return stored


ODD = {"x.lora_A.weight": np.zeros((2, 4), np.float32), "x.lora_B.weight": np.zeros((4, 2), np.float32)}
REFUSALS: list[tuple[Tensors, Any, str]] = [
    (changed(B=(1000, 4)), None, "differ in rank"),
    (changed(B=(1000, 3)), None, "differ in rank"),
    (changed(A=(RANK,)), None, "differ in rank"),  # type: ignore[arg-type]
    (lora(True), CONFIGURED | {"lora_rank": 64}, "has rank 6, its config.json says lora_rank 64"),
    (changed(A=(RANK, 128)), None, r"text_linear.weight, a weight of shape (1000, 128), the model's is (1000, 256)"),
    (changed(B=(800, RANK)), None, r"text_linear.weight, a weight of shape (800, 256), the model's is (1000, 256)"),
    (changed(A=None), None, "'text_linear.lora_A.weight' is missing"),
    (changed(B=None), None, "'text_linear.lora_B.weight' is missing"),
    (lora(True) | ODD, None, "changes x.weight, which the model does not have"),
    (lora(True) | {"emb.2.weight": np.zeros((5, 256), np.float32)}, None, "changes audio_embs.2.weight, a weight of"),
    (lora(True) | {"vision.weight": np.zeros((5, 256), np.float32)}, None, "changes vision.weight, which"),
    ({"text_linear.weight": np.zeros((1000, 256), np.float32)}, None, "holds no LoRA"),
    (lora(True), {"lora_scaling": "much"}, "lora_scaling or lora_rank"),
    (lora(True), {"lora_rank": [6]}, "lora_scaling or lora_rank"),
    (lora(True), {"lora_rank": float("inf")}, "cannot convert float infinity"),
    (lora(True), {"lora_scaling": float("nan")}, "lora_scaling is nan"),
    (lora(True), [1], "is not a JSON object"),
]


@pytest.mark.parametrize(("stored", "config", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_one_of_another_model_or_a_damaged_one_is_refused_in_one_line(
    make: Make, stored: Tensors, config: Any, reason: str
) -> None:
    with pytest.raises(CheckpointError, match="MOSHI_LORA") as caught:
        load(located(place(make, base(), stored, config)))
    assert str(caught.value).startswith("MOSHI_LORA")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quantised_model_takes_none(make: Make) -> None:
    folder: Path = make(bits=8)
    tuned = folder / "tuned"
    tuned.mkdir()
    save(tuned / LORA, lora(True))
    with pytest.raises(CheckpointError, match=r"^MOSHI_LORA: model\.q8\.safetensors is quantised.*MOSHI_QUANTIZE=8$"):
        load(located((folder, tuned)))


@pytest.mark.parametrize("content", [None, b"", b"\0" * 100, b"version https://git-lfs.github.com/spec/v1\noid x\n"])
def test_a_missing_or_damaged_file_is_named(make: Make, content: bytes | None) -> None:
    folder, tuned = place(make, base(), lora(True), None)
    (tuned / LORA).unlink()
    if content is not None:
        (tuned / LORA).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^MOSHI_LORA=.*lora\.safetensors") as caught:
        located((folder, tuned))
    assert "\n" not in str(caught.value)


def test_a_lora_in_the_place_of_a_model_says_what_to_set(make: Make) -> None:
    folder, tuned = place(make, base(), lora(True), None)
    with pytest.raises(CheckpointError, match=r"^MOSHI_CHECKPOINT=.*: holds a LoRA, no model; set MOSHI_LORA to it"):
        locate(str(tuned), folder / "cache", silent)
