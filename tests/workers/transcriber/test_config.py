"""Which checkpoints are speech-to-text, and in which files they come."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.workers.transcriber.small import TEXT, build, config, official, speech, written
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER, CheckpointError, Files, files_in
from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import write_tokenizer
from workers.transcriber.config import speech_config
from workers.transcriber.start import load_speech
from workers.transcriber.transcriber import Transcriber
from workers.transcriber.words import SpeechTiming

Make = Callable[..., Files]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a checkpoint as Kyutai names its files; `changes` are those of config.json, None takes a key away."""

    def write(weights: dict[str, mx.array] | None = None, name: str = "model.safetensors", **changes: Any) -> Files:
        tensors = weights or dict(tree_flatten(build(mx.bfloat16).parameters()))
        mx.save_safetensors(str(tmp_path / name), tensors)
        mx.save_safetensors(str(tmp_path / MIMI), {"mimi": mx.zeros(3)})
        write_tokenizer(tmp_path / TOKENIZER, random_pieces(TEXT))
        settings = {key: value for key, value in (config() | changes).items() if value is not None}
        (tmp_path / CONFIG).write_text(json.dumps(settings))
        return files_in(tmp_path, str(tmp_path), name="TRANSCRIBE")

    return write


def in_pytorch(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Return the weights by the names and shapes of Kyutai's PyTorch files, with which the -candle ones agree."""
    renamed = {}
    for name, array in weights.items():
        other = name.replace("audio_embs.", "emb.").replace("in_proj.weight", "in_proj_weight")
        if "norm" in other:
            other, array = other.replace(".weight", ".alpha"), array.reshape(1, 1, -1)
        renamed[other] = array
    return renamed


@pytest.mark.parametrize("layout", [dict, in_pytorch], ids=["mlx", "pytorch"])
def test_both_layouts_are_the_same_model(make: Make, layout: Callable[[dict[str, mx.array]], Any]) -> None:
    wanted = official(build(mx.bfloat16), speech(1, 9))[:8]
    lm, found = load_speech(make(layout(dict(tree_flatten(build(mx.bfloat16).parameters())))))
    assert written(Transcriber(lm, 1), speech(1, 8)) == wanted
    assert found == SpeechTiming(6, 0)


def test_the_published_models_delays(make: Make) -> None:
    timing = {"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0}
    assert speech_config(make(stt_config=timing)).timing == SpeechTiming(31, 13)


def test_the_extra_heads_are_those_in_the_file(make: Make) -> None:
    """The -mlx file has none; config.json may say otherwise."""
    lm, _ = load_speech(make(dict(tree_flatten(build(mx.bfloat16, heads=0).parameters()))))
    assert lm.extra_heads == []


@pytest.mark.parametrize("bits", [4, 8])
def test_plain_weights_are_quantised_at_load_and_others_stay_as_they_are(make: Make, bits: int) -> None:
    wanted = official(build(mx.bfloat16, bits), speech(1, 5))[:4]
    stored = dict(tree_flatten(build(mx.bfloat16, bits).parameters()))
    plain = dict(tree_flatten(build(mx.bfloat16).parameters()))
    for weights, quantize in ((plain, bits), (stored, 12 - bits), (stored, None)):
        lm, _ = load_speech(make(weights), quantize)
        assert written(Transcriber(lm, 1), speech(1, 4)) == wanted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stt_config": None}, "holds no speech-to-text"),
        ({"stt_config": {"audio_delay_seconds": -1}}, "stt_config"),
        ({"dep_q": 8}, "dep_q"),
        ({"n_q": 16}, "n_q"),
        ({"delays": [0] * 32}, "delays"),
        ({"delays": [0] * 32 + [1]}, "delays"),
        ({"norm": "layer_norm"}, "norm"),
        ({"num_heads": 3}, "num_heads"),
        ({"dim": None}, "dim"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_is_no_speech_to_text_is_refused_in_one_line(make: Make, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=r"^TRANSCRIBE: .*take hf://kyutai/stt-1b-en_fr-mlx") as refused:
        load_speech(make(**changes))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_of_another_model_are_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"^TRANSCRIBE: model.safetensors does not fit its config"):
        load_speech(make(num_layers=3))
