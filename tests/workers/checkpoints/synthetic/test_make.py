import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from moshi_mlx.models import LmConfig
from sentencepiece import SentencePieceProcessor

from tests.workers.checkpoints.synthetic.conftest import Made
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER
from workers.checkpoints.made_once import made_once
from workers.checkpoints.synthetic import make_synthetic
from workers.checkpoints.synthetic.make import parse_spec


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("script", "script"),
        ("random", "random tiny bf16"),
        ("random:q8", "random tiny q8"),
        ("random:mid", "random mid bf16"),
        ("random:full:q4", "random full q4"),
        ("personaplex", "personaplex tiny"),
        ("stt", "stt"),
        ("stt:random", "stt-random tiny"),
        ("stt:random:mid", "stt-random mid"),
    ],
)
def test_a_spec_has_defaults(spec: str, parts: str) -> None:
    assert parse_spec(spec) == parts.split()


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "scripts",
        "script:tiny",
        "random:huge",
        "random:q4:tiny",
        "parrot:",
        "random:",
        "personaplex:full",
        "stt:mid",
    ],
)
def test_any_other_spec_is_refused_by_the_name_of_the_setting(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^MOSHI_CHECKPOINT: there is no synthetic checkpoint synthetic:{spec};"):
        make_synthetic(spec, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "model", "temperatures"),
    [
        ("script", "model.safetensors", (0, 0)),
        ("parrot", "model.safetensors", (0, 0)),
        ("random:tiny:bf16", "model.safetensors", (0.8, 0.7)),
        ("random:tiny:q4", "model.q4.safetensors", (0.8, 0.7)),
    ],
)
def test_the_folder_is_one_of_kyutais_as_its_config_says(
    made: Made, spec: str, model: str, temperatures: tuple[float, float]
) -> None:
    """What is written down is not sampled: temperature 0."""
    config = json.loads((made(spec) / CONFIG).read_text())
    assert (config["moshi_name"], config["mimi_name"], config["tokenizer_name"]) == (model, MIMI, TOKENIZER)
    assert {path.name for path in made(spec).iterdir()} == {model, MIMI, TOKENIZER, CONFIG}
    assert (config["lm_gen_config"]["temp"], config["lm_gen_config"]["temp_text"]) == temperatures
    official = LmConfig.from_config_dict(config)
    assert official.audio_delays == [0, 1, 1, 1, 1, 1, 1, 1] * 2
    assert (official.generated_codebooks, official.other_codebooks, official.audio_vocab_size) == (8, 8, 2_049)
    tokenizer = SentencePieceProcessor(model_file=str(made(spec) / TOKENIZER))
    assert tokenizer.vocab_size() == official.text_out_vocab_size


def test_the_same_spec_is_made_once_and_the_random_mimi_for_all(made: Made) -> None:
    folder, told = made("random:tiny:bf16"), list[str]()
    assert make_synthetic("random", folder.parent, progress=lambda name, *_: told.append(name)) == folder
    assert not told
    assert (made("parrot") / MIMI).samefile(folder / MIMI)


def make(folder: Path) -> None:
    folder.mkdir()
    (folder / "made").write_text("whole")


def test_a_maker_that_fails_leaves_nothing_that_looks_whole_or_is_in_the_way(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "x", fail)
    assert not (tmp_path / "x").exists()
    assert [path.name for path in made_once(tmp_path / "x", make).iterdir()] == ["made"]


def test_of_many_makers_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    """In threads: the lock belongs to an open file, not to a process."""
    begun, makers = Barrier(3), []

    def make_one(number: int) -> bool:
        def make_and_count(folder: Path) -> None:
            makers.append(number)
            make(folder)

        begun.wait()
        return (made_once(tmp_path / "x", make_and_count) / "made").exists()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(make_one, range(3))) == [True] * 3
    assert len(makers) == 1
