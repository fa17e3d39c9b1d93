"""What follows from a checkpoint's config and tensors, and which models are refused before anything is loaded."""

import json
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, config_v0_1

from tests.workers.conftest import Make
from tests.workers.engine.small import MID, build, official, speech
from workers.checkpoints.files import CONFIG, CheckpointError, Files, files_in
from workers.engine.checkpoint import load
from workers.engine.config import config_of

STUB = {"model_type": "moshi", "version": 1}


def weights() -> dict[str, mx.array]:
    return dict(tree_flatten(build("mid", mx.bfloat16).parameters()))


def files_with(folder: Path, config: dict[str, Any], more: dict[str, mx.array] | None = None) -> Files:
    (folder / CONFIG).write_text(json.dumps(config))
    if more is not None:
        mx.save_safetensors(str(folder / "model.safetensors"), weights() | more)
    return files_in(folder, "here")


def refusal(files: Files) -> str:
    """Return in which words loading is refused: one line."""
    with pytest.raises(CheckpointError, match=r"^MOSHI_CHECKPOINT: ") as caught:
        load(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of bf16 zeros that takes no space on the disk."""
    entries, total = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [total, total := total + size]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + total)


def test_without_a_config_the_published_7b_has_the_published_shape(make: Make) -> None:
    folder = make()
    published: dict[str, mx.array] = dict(tree_flatten(Lm(config_v0_1()).parameters()))  # lazy: nothing is computed
    write_header(folder / "model.safetensors", {name: tuple(one.shape) for name, one in published.items()})
    assert config_of(Files(None, folder / "model.safetensors", folder, folder)) == config_v0_1()


@pytest.mark.parametrize("config", [STUB, {}])
def test_a_config_without_a_shape_leaves_it_to_the_tensors(make: Make, config: dict[str, Any]) -> None:
    """Heads are 128 and 64 wide then, as in the 7B."""
    found = config_of(files_with(make(), config))
    assert (found.transformer.num_layers, found.transformer.num_heads, found.transformer.d_model) == (3, 2, 256)
    assert (found.depformer.transformer.num_layers, found.depformer.transformer.num_heads) == (2, 4)
    assert (found.text_out_vocab_size, found.audio_vocab_size, found.transformer.context) == (1000, 2049, 3000)


def test_a_depformer_without_a_feed_forward_width_has_that_of_the_hidden_scale(make: Make) -> None:
    """int(4.125 * 256) = 1056, which moshi_mlx gates to 704, as many as 11/4 * 256."""
    config = {**MID, "hidden_scale": 4.125, "depformer_dim_feedforward": None}
    lm = load(files_with(make(), config))
    assert lm.cfg.depformer.transformer.dim_feedforward == 1056
    assert official(lm, speech(0, 3)) == official(build("mid", mx.bfloat16), speech(0, 3))


KYUTAIS = {
    "hidden_scale": 4.125,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "depformer_multi_linear": True,
    "depformer_gating": "silu",
    "depformer_weights_per_step": True,
    "depformer_layer_scale": None,
    "depformer_context": 8,
    "depformer_max_period": 10_000,
    "depformer_causal": True,
    "cross_attention": False,
    "existing_text_padding_id": 3,
    "conditioners": {},
    "model_type": "moshi",
    "lm_gen_config": {},
    "tts_config": {},
}


def test_what_kyutais_configs_say_beside_the_shape_is_accepted(make: Make) -> None:
    load(files_with(make(), {**MID, **KYUTAIS}))


IGNORED = [
    ("hidden_scale", 4),
    ("hidden_scale", 6.0),
    ("kv_repeat", 2),
    ("depformer_kv_repeat", 2),
    ("delays", [1, *MID["delays"][1:]]),
    ("delays", [2, *[delay + 2 for delay in MID["delays"][1:]]]),
    ("rope_concat", True),
    ("norm", "rms_norm"),
    ("norm", "layer_norm"),
    ("depformer_norm", "layer_norm"),
    ("gating", "none"),
    ("gating", "gelu"),
    ("depformer_gating", "none"),
    ("causal", False),
    ("depformer_multi_linear", False),
    ("depformer_weights_per_step", False),
    ("depformer_weights_per_step_schedule", [0, 1, 2, 3, 4, 4, 4, 4]),
    ("depformer_layer_scale", 0.01),
    ("depformer_context", 4),
    ("existing_text_padding_id", 0),
    ("existing_text_end_padding_id", 3),
    ("conditioners", {"description": {"type": "lut"}}),
    ("demux_second_stream", True),
    ("dep_q", 32),
    ("dep_q", 4),
    ("n_q", 32),
    ("depformer_pos_emb", "rope"),
    ("cross_attention", True),
]


@pytest.mark.parametrize("shape", [MID, STUB], ids=["config", "stub"])
@pytest.mark.parametrize(("name", "value"), IGNORED)
def test_what_moshi_mlx_would_get_wrong_in_silence_is_refused(
    make: Make, shape: dict[str, Any], name: str, value: object
) -> None:
    said = refusal(files_with(make(), {**shape, name: value}))
    assert f"config.json does not describe a Moshi ({name} " in said
    assert said.endswith("take a Moshi for dialogue")


WRONG: list[object] = [None, "abc", -1, 0, [], {}, 1.5, True, 2_000_000_000]
SIZES = ["dim", "num_heads", "num_layers", "context", "card", "text_card", "dep_q", "n_q", "delays"]
SIZES += [f"depformer_{name}" for name in ("dim", "num_heads", "num_layers", "dim_feedforward")]


def test_a_size_that_is_none_is_refused(make: Make) -> None:
    folder = make(mx.float32)
    files = files_in(folder, "here")
    wrong = [(name, value) for name in SIZES for value in WRONG if (name, value) != ("depformer_dim_feedforward", None)]
    for name, value in [*wrong, ("num_heads", 7)]:
        (folder / CONFIG).write_text(json.dumps({**MID, name: value}))
        assert "does not describe a Moshi (" in refusal(files)


@pytest.mark.parametrize("kind", ["hibiki", "tts", "stt", "kame", "moshi_rag", "moshi_vis"])
def test_a_relative_that_is_not_for_dialogue_is_refused_by_its_kind(make: Make, kind: str) -> None:
    assert refusal(files_with(make(), {**MID, "model_type": kind})).startswith(f"MOSHI_CHECKPOINT: {kind} ")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("condition_provider.conditioners.description.embed.weight", "is steered by conditions"),
        ("transformer.layers.0.cross_attention.in_proj_weight", "reads something else beside speech"),
        ("image_prefix.enc.weight", "needs images"),
        ("text_linear.weight_scb", "is quantised by bitsandbytes"),
        ("oracle_emb.weight", "does not fit its config"),
        ("transformer.layers.9.norm1.weight", "does not fit its config"),
    ],
)
def test_a_relative_is_refused_by_its_tensors(make: Make, tensor: str, reason: str) -> None:
    assert reason in refusal(files_with(make(), MID, {tensor: mx.zeros((4, 4))}))


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        ("depformer.", "does not speak"),
        ("out_norm.", "neither Kyutai's PyTorch layout nor MLX's"),
        ("depformer.slices.0.transformer", "holds no whole Moshi"),
        ("text_linear.", "holds no whole Moshi"),
        ("audio_embs.15.", "does not describe a Moshi (n_q 15"),
    ],
)
def test_a_file_without_a_part_of_a_moshi_is_refused(make: Make, drop: str, reason: str) -> None:
    folder = make(config=STUB | {"text_card": 1000})
    left = {name: one for name, one in weights().items() if not name.startswith(drop)}
    mx.save_safetensors(str(folder / "model.safetensors"), left)
    assert reason in refusal(files_in(folder, "here"))
