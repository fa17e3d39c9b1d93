import json
from collections.abc import Callable
from pathlib import Path

import pytest
from moshi_mlx.models import LmConfig
from sentencepiece import SentencePieceProcessor

from workers.checkpoints.files import MIMI, TOKENIZER
from workers.checkpoints.synthetic import make_synthetic
from workers.checkpoints.synthetic.make import Recipe, parse_recipe

Made = Callable[[str], Path]
SPECS = ["script", "parrot", "random:tiny:bf16", "random:tiny:q4"]


@pytest.mark.parametrize(
    ("spec", "recipe"),
    [
        ("script", Recipe("script")),
        ("parrot", Recipe("parrot")),
        ("random", Recipe("random", "tiny", "bf16")),
        ("random:q8", Recipe("random", "tiny", "q8")),
        ("random:mid", Recipe("random", "mid", "bf16")),
        ("random:full:q4", Recipe("random", "full", "q4")),
    ],
)
def test_a_spec_names_a_recipe(spec: str, recipe: Recipe) -> None:
    assert parse_recipe(spec) == recipe


@pytest.mark.parametrize("spec", ["", "scripts", "script:tiny", "random:huge", "random:q4:tiny", "parrot:", "random:"])
def test_any_other_spec_is_refused_by_the_name_of_the_setting(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^MOSHI_CHECKPOINT: there is no synthetic checkpoint synthetic:{spec};"):
        make_synthetic(spec, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", SPECS)
def test_the_folder_holds_what_its_config_names(made: Made, spec: str) -> None:
    folder = made(spec)
    config = json.loads((folder / "config.json").read_text())
    assert config["mimi_name"] == MIMI
    assert config["tokenizer_name"] == TOKENIZER
    names = {config["moshi_name"], config["mimi_name"], config["tokenizer_name"], "config.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert config["moshi_name"] == ("model.q4.safetensors" if spec.endswith("q4") else "model.safetensors")


@pytest.mark.parametrize("spec", SPECS)
def test_the_config_is_one_of_kyutais(made: Made, spec: str) -> None:
    config = json.loads((made(spec) / "config.json").read_text())
    official = LmConfig.from_config_dict(config)
    assert official.audio_delays == [0, 1, 1, 1, 1, 1, 1, 1] * 2
    assert (official.generated_codebooks, official.other_codebooks, official.audio_vocab_size) == (8, 8, 2_049)
    tokenizer = SentencePieceProcessor(model_file=str(made(spec) / TOKENIZER))
    assert tokenizer.vocab_size() == official.text_out_vocab_size


def test_what_is_written_is_not_sampled(made: Made) -> None:
    temperatures = {
        spec: [
            json.loads((made(spec) / "config.json").read_text())["lm_gen_config"][key] for key in ("temp", "temp_text")
        ]
        for spec in ("script", "parrot", "random")
    }
    assert temperatures == {"script": [0, 0], "parrot": [0, 0], "random": [0.8, 0.7]}


def test_the_same_spec_is_made_once(made: Made, cache: Path) -> None:
    told: list[str] = []
    assert make_synthetic("random", cache, progress=lambda name, *_: told.append(name)) == made("random:tiny:bf16")
    assert not told


def test_the_random_mimi_is_kept_once(made: Made) -> None:
    assert (made("parrot") / MIMI).samefile(made("random") / MIMI)
