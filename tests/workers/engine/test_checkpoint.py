"""Files on disk become a model, or one line that says what to do."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.workers.conftest import Make
from tests.workers.engine.small import MID, TINY, build
from workers.checkpoints.files import CONFIG, FILE_NAMES, CheckpointError, files_in
from workers.engine.checkpoint import load, sampling_of
from workers.engine.sampling import SamplingSettings


def same_weights(loaded: Lm, wanted: Lm) -> bool:
    left, right = dict(tree_flatten(loaded.parameters())), dict(tree_flatten(wanted.parameters()))
    return left.keys() == right.keys() and all(mx.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("dtype", "saved", "quantize", "loaded"),
    [
        (mx.float32, None, None, None),
        (mx.bfloat16, None, None, None),
        (mx.bfloat16, 4, None, 4),
        (mx.bfloat16, 8, None, 8),
        (mx.bfloat16, 4, 4, 4),
        (mx.bfloat16, None, 4, 4),
        (mx.bfloat16, None, 8, 8),
    ],
)
def test_what_was_saved_is_loaded_and_quantised_if_wanted(
    make: Make, dtype: mx.Dtype, saved: int | None, quantize: int | None, loaded: int | None
) -> None:
    assert same_weights(load(files_in(make(dtype, saved), "here"), quantize), build("mid", dtype, loaded))


@pytest.mark.parametrize(
    ("saved", "quantize", "reason"),
    [
        (4, 8, r"MOSHI_QUANTIZE=8: model\.q4\.safetensors is quantised to 4 bits"),
        (None, 3, "MOSHI_QUANTIZE=3: choose none, 4 or 8"),
    ],
)
def test_bits_that_cannot_be_had_are_refused(make: Make, saved: int | None, quantize: int, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load(files_in(make(bits=saved), "here"), quantize)


def test_layers_too_narrow_for_a_group_stay_plain(make: Make) -> None:
    folder = make(config=TINY)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(build().parameters())))
    lm = load(files_in(folder, "here"), 8)
    assert "scales" in lm.text_emb
    assert "scales" not in lm.transformer.layers[0].gating.linear_out


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_without_a_config_the_shape_is_that_of_the_tensors(make: Make, bits: int | None) -> None:
    files = files_in(make(bits=bits, config=None), "here")
    assert files.config is None
    assert same_weights(load(files), build("mid", mx.bfloat16, bits))
    assert sampling_of(files) == SamplingSettings()


@pytest.mark.parametrize(
    "config",
    ['{"lm_gen_config": {"top_k": Infinity}}', '{"lm_gen_config": {"temp": NaN}}', '{"a": ' + "[" * 100_000],
)
def test_a_config_that_means_nothing_is_refused(make: Make, config: str) -> None:
    files = files_in(make(config=MID), "here")
    assert files.config
    files.config.write_text(config)
    with pytest.raises(CheckpointError, match=r"lm_gen_config|cannot be read"):
        sampling_of(files)


def test_the_checkpoint_may_say_how_to_sample(make: Make) -> None:
    folder = make(config={**MID, "lm_gen_config": {"temp": 0.5, "temp_text": 0.0, "top_k": 100, "top_k_text": 10}})
    files = files_in(folder, "here")
    assert sampling_of(files) == SamplingSettings(0.0, 10, 0.5, 100)
    (folder / CONFIG).write_text(json.dumps({**MID, "lm_gen_config": {"top_k": "many"}}))
    with pytest.raises(CheckpointError, match="lm_gen_config"):
        sampling_of(files)


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_weights_of_another_shape_are_refused(make: Make, bits: int | None) -> None:
    folder = make(bits=bits, config={**TINY, "text_card": MID["text_card"]})
    with pytest.raises(
        CheckpointError, match=r"MOSHI_CHECKPOINT: model\..*safetensors does not fit its config"
    ) as caught:
        load(files_in(folder, "here"))
    assert "\n" not in str(caught.value)


SCALAR = np.zeros((), np.float32)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("transformer.layers.0.self_attn.in_proj.weight_scale", SCALAR, "does not fit its config"),
        ("transformer.layers.0.self_attn.in_proj.weight", SCALAR, "does not fit its config"),
        ("transformer.layers.0.self_attn.in_proj.scales", SCALAR, "is quantised in an unknown way"),
        ("out_norm.of_another_type", np.zeros(4), "cannot be loaded"),
    ],
)
@pytest.mark.parametrize("pytorch", [False, True])
def test_a_tensor_that_is_no_moshis_is_refused_in_one_line(
    make: Make, name: str, tensor: NDArray[np.floating], reason: str, pytorch: bool
) -> None:
    """Other quantisers write scales of no dimension."""
    folder = make(mx.float32)
    files = files_in(folder, "here")
    extra = {"out_norm.alpha": SCALAR} if pytorch else {}
    save_file({**load_file(files.model), **extra, name: tensor}, files.model)
    with pytest.raises(CheckpointError, match=rf"MOSHI_CHECKPOINT: model\.safetensors {reason}") as caught:
        load(files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r".*config\.json cannot be read"),
        ("[1]", "not a JSON object"),
        *((json.dumps({name: 5}), f"{name} in .* is not the name of a file") for name in FILE_NAMES),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(make: Make, text: str, reason: str) -> None:
    folder = make()
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=f"MOSHI_CHECKPOINT: .*{reason}"):
        files_in(folder, "here")
