"""Files on disk become a model, or one line that says what to do."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig

from tests.workers.conftest import Make
from tests.workers.engine.small import MID, TINY, build, official, speech
from workers.checkpoints.files import CONFIG, CheckpointError, files_in
from workers.engine import checkpoint
from workers.engine.checkpoint import load, open_checkpoint, sampling_of
from workers.engine.sampling import SamplingSettings


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def same_weights(loaded: Lm, wanted: Lm) -> bool:
    left, right = dict(tree_flatten(loaded.parameters())), dict(tree_flatten(wanted.parameters()))
    return left.keys() == right.keys() and all(mx.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(mx.float32, None), (mx.bfloat16, None), (mx.bfloat16, 4), (mx.bfloat16, 8)],
    ids=["f32", "bf16", "q4", "q8"],
)
def test_what_was_saved_is_loaded(make: Make, dtype: mx.Dtype, bits: int | None) -> None:
    folder = make(dtype, bits)
    lm = load(files_in(folder, "here"))
    assert same_weights(lm, build("mid", dtype, bits))
    assert official(lm, speech(0, 3)) == official(build("mid", dtype, bits), speech(0, 3))


@pytest.mark.parametrize("bits", [4, 8])
def test_plain_weights_are_quantised_while_loading(make: Make, bits: int) -> None:
    lm = load(files_in(make(mx.bfloat16), "here"), bits)
    assert same_weights(lm, build("mid", mx.bfloat16, bits))


def test_a_quantised_file_may_be_asked_for_by_its_own_width(make: Make) -> None:
    assert same_weights(load(files_in(make(bits=4), "here"), 4), build("mid", mx.bfloat16, 4))


def test_another_width_than_the_files_is_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"MOSHI_QUANTIZE=8: model\.q4\.safetensors is quantised to 4 bits"):
        load(files_in(make(bits=4), "here"), 8)


def test_an_unknown_width_is_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match="MOSHI_QUANTIZE=3: choose none, 4 or 8"):
        load(files_in(make(), "here"), 3)


def test_layers_too_narrow_for_a_group_stay_plain(tmp_path: Path, make: Make) -> None:
    folder = make(config=TINY)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(build().parameters())))
    lm = load(files_in(folder, "here"), 8)
    assert "scales" in lm.text_emb
    assert "scales" not in lm.transformer.layers[0].gating.linear_out


def test_without_a_config_it_is_the_published_moshi(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "config_v0_1", lambda: LmConfig.from_config_dict(MID))
    loaded = open_checkpoint(str(make(bits=8, config=None)), None, cache=Path("unused"), progress=silent)
    assert same_weights(loaded.lm, build("mid", mx.bfloat16, 8))
    assert loaded.sampling == SamplingSettings()
    assert loaded.files.config is None


def test_the_checkpoint_may_say_how_to_sample(make: Make) -> None:
    wish = {"temp": 0.5, "temp_text": 0.0, "top_k": 100, "top_k_text": 10}
    files = files_in(make(config={**MID, "lm_gen_config": wish}), "here")
    assert sampling_of(files) == SamplingSettings(0.0, 10, 0.5, 100)


def test_a_wrong_wish_is_refused(make: Make) -> None:
    files = files_in(make(config={**MID, "lm_gen_config": {"top_k": "many"}}), "here")
    with pytest.raises(CheckpointError, match="lm_gen_config"):
        sampling_of(files)


def test_weights_of_another_shape_are_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"MOSHI_CHECKPOINT: model\.safetensors does not fit its config"):
        load(files_in(make(config=TINY), "here"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dep_q": 4}, "codebooks"),
        ({"depformer_pos_emb": "rope"}, "positional"),
        ({"cross_attention": True}, "conditions"),
        ({"dim": None}, "does not describe a Moshi"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_models_that_are_no_moshi_for_dialogue_are_refused(make: Make, change: dict[str, object], reason: str) -> None:
    folder = make(config={**MID, **change})
    with pytest.raises(CheckpointError, match=f"MOSHI_CHECKPOINT: .*{reason}"):
        load(files_in(folder, "here"))


def test_a_model_in_pytorchs_layout_is_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    asked = []
    monkeypatch.setattr(checkpoint, "read_header", lambda path: {"depformer_in.0.weight": None})
    monkeypatch.setattr(Lm, "load_pytorch_weights", lambda self, path, config, strict: asked.append(path))
    load(files_in(folder, "here"))
    assert asked == [str(folder / "model.safetensors")]


def test_a_config_that_is_no_json_is_refused(make: Make) -> None:
    folder = make()
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match=r"MOSHI_CHECKPOINT: .*config\.json cannot be read"):
        files_in(folder, "here")
    (folder / CONFIG).write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match="not a JSON object"):
        files_in(folder, "here")


NO_NUMBERS: list[object] = [None, "abc", -1, 0, [], {}, 1.5, True, 2_000_000_000]
SIZES = ("dim", "num_heads", "num_layers", "context", "card", "text_card", "depformer_dim", "depformer_num_layers")


@pytest.mark.parametrize("name", [*SIZES, "depformer_num_heads", "depformer_dim_feedforward", "dep_q", "n_q", "delays"])
def test_a_config_whose_numbers_are_none_is_refused_in_one_line(make: Make, name: str) -> None:
    folder = make(mx.float32)
    for value in NO_NUMBERS:
        (folder / CONFIG).write_text(json.dumps({**MID, name: value}))
        with pytest.raises(CheckpointError) as caught:
            load(files_in(folder, "here"))
        assert "\n" not in str(caught.value)
