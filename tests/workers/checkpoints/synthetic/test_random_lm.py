from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.workers.checkpoints.synthetic.official import converse, load, parameters_of
from workers.checkpoints.synthetic.lm_layout import FULL, MID, TINY, Shapes, tensors_of
from workers.checkpoints.synthetic.random_lm import Weights, random_lm


@pytest.mark.parametrize("spec", ["random:f32", "random", "random:q4", "random:tiny:q8"])
def test_the_official_model_loads_it_and_speaks(made: Callable[[str], Path], spec: str) -> None:
    caller = np.random.default_rng(0).integers(0, 2_048, (6, 8), np.int32)
    tokens, frames = converse(load(made(spec)), caller, temperature=0.8)
    assert max(tokens) < 1_000
    assert frames.shape == (5, 8)
    assert len(np.unique(frames)) > 20


@pytest.mark.parametrize("spec", ["random:tiny:q4", "random:tiny:q8"])
def test_quantised_weights_have_the_scale_of_the_others(made: Callable[[str], Path], spec: str) -> None:
    layer = load(made(spec)).transformer.layers[0].gating.linear_in
    weights = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    assert abs(float(weights.astype(mx.float32).std()) - 1 / 16) < 1 / 160
    assert abs(float(weights.astype(mx.float32).mean())) < 1e-3


def test_bf16_is_f32_rounded(made: Callable[[str], Path]) -> None:
    exact, rounded = (parameters_of(load(made(f"random:{form}"))) for form in ("f32", "bf16"))
    assert {array.dtype for array in rounded.values()} == {mx.bfloat16}
    assert all(mx.array_equal(array.astype(mx.bfloat16), rounded[name]).item() for name, array in exact.items())


@pytest.mark.parametrize("shapes", [TINY, MID, FULL], ids=["tiny", "mid", "full"])
@pytest.mark.parametrize(("weights", "bits", "group"), [("q4", 4, 32), ("q8", 8, 64)])
def test_every_matrix_can_be_quantised(shapes: Shapes, weights: Weights, bits: int, group: int) -> None:
    tensors = random_lm(shapes, weights)
    for name, (rows, *columns) in tensors_of(shapes).items():
        if columns:
            assert tensors[name].shape == (rows, columns[0] * bits / 32)
            assert tensors[name.removesuffix("weight") + "scales"].shape == (rows, columns[0] / group)


def test_full_q4_is_as_large_as_kyutais() -> None:
    assert 4.6e9 < sum(tensor.nbytes for tensor in random_lm(FULL, "q4").values()) < 4.9e9
    assert 15.2e9 < sum(tensor.nbytes for tensor in random_lm(FULL, "bf16").values()) < 15.5e9


def test_it_is_always_the_same() -> None:
    first, second = (random_lm(TINY, "bf16")["text_linear.weight"].make() for _ in range(2))
    assert np.array_equal(first, second)
