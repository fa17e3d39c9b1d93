import mlx.core as mx
import numpy as np
import pytest
import rustymimi
from moshi_mlx.models import Lm, LmConfig, config_v0_1
from moshi_mlx.models.mimi import Mimi, mimi_202407

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import converse, load, parameters_of
from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic.lm_layout import FULL, MID, TINY, Shape, Shapes, config_of, tensors_of
from workers.checkpoints.synthetic.phrases import phrases
from workers.checkpoints.synthetic.random_lm import random_lm
from workers.checkpoints.synthetic.random_mimi import random_mimi
from workers.messages import FRAME_SAMPLES

each_size = pytest.mark.parametrize("shapes", [TINY, MID, FULL], ids=["tiny", "mid", "full"])


def shapes_in(lm: Lm) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in parameters_of(lm).items()}


@each_size
def test_names_and_shapes_are_those_of_the_official_model(shapes: Shapes) -> None:
    lm = Lm(LmConfig.from_config_dict(config_of(shapes)))  # arrays of MLX are made when used, so this takes no memory
    assert tensors_of(shapes) == shapes_in(lm)


def test_full_is_the_7b_model() -> None:
    assert tensors_of(FULL) == shapes_in(Lm(config_v0_1()))
    ours = LmConfig.from_config_dict(config_of(FULL))
    assert ours.audio_delays == config_v0_1().audio_delays
    assert ours.transformer == config_v0_1().transformer
    assert 4.6e9 < sum(tensor.nbytes for tensor in random_lm(FULL, "q4").values()) < 4.9e9, "as large as Kyutai's"
    assert 15.2e9 < sum(tensor.nbytes for tensor in random_lm(FULL, "bf16").values()) < 15.5e9


@pytest.mark.parametrize("spec", ["random:f32", "random", "random:q4", "random:tiny:q8"])
def test_the_official_model_loads_it_and_speaks(made: Made, spec: str) -> None:
    caller = np.random.default_rng(0).integers(0, 2_048, (6, 8), np.int32)
    tokens, frames = converse(load(made(spec)), caller, temperature=0.8)
    assert max(tokens) < 1_000
    assert frames.shape == (5, 8)
    assert len(np.unique(frames)) > 20


@pytest.mark.parametrize("spec", ["random:tiny:q4", "random:tiny:q8"])
def test_quantised_weights_have_the_scale_of_the_others(made: Made, spec: str) -> None:
    layer = load(made(spec)).transformer.layers[0].gating.linear_in
    weights = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    assert abs(float(weights.astype(mx.float32).std()) - 1 / 16) < 1 / 160
    assert abs(float(weights.astype(mx.float32).mean())) < 1e-3


def test_bf16_is_f32_rounded(made: Made) -> None:
    exact, rounded = (parameters_of(load(made(f"random:{form}"))) for form in ("f32", "bf16"))
    assert {array.dtype for array in rounded.values()} == {mx.bfloat16}
    assert all(mx.array_equal(array.astype(mx.bfloat16), rounded[name]).item() for name, array in exact.items())


@each_size
@pytest.mark.parametrize(("weights", "bits", "group"), [("q4", 4, 32), ("q8", 8, 64)])
def test_every_matrix_can_be_quantised(shapes: Shapes, weights: str, bits: int, group: int) -> None:
    tensors = random_lm(shapes, weights)
    for name, (rows, *columns) in tensors_of(shapes).items():
        if columns:
            assert tensors[name].shape == (rows, columns[0] * bits / 32)
            assert tensors[name.removesuffix("weight") + "scales"].shape == (rows, columns[0] / group)


def test_it_is_always_the_same() -> None:
    for name in ("upsample.convtr.convtr.convtr.weight", "decoder.model.0.conv.conv.bias"):
        assert np.array_equal(random_mimi()[name].make(), random_mimi()[name].make())
    one, other = (random_lm(TINY, "q4")["text_linear.weight"].make() for _ in range(2))
    assert np.array_equal(one, other)


def test_speech_becomes_codes_that_vary_and_codes_become_audible_noise(made: Made) -> None:
    mimi = rustymimi.Tokenizer(str(made("parrot") / MIMI), num_codebooks=8)
    codes = mimi.encode_step(phrases()[0].pcm[None, None, : 10 * FRAME_SAMPLES])
    assert codes.shape == (1, 8, 10)
    assert len(np.unique(codes)) > 30
    pcm = mimi.decode_step(np.ascontiguousarray(codes))
    assert 0.02 < pcm.std() < 0.3
    assert np.abs(pcm).max() < 2


@pytest.mark.parametrize("spec", ["script", "parrot"])
def test_the_official_mimi_loads_the_written_and_the_random_one(made: Made, spec: str) -> None:
    Mimi(mimi_202407(32)).load_pytorch_weights(str(made(spec) / MIMI), strict=True)
