"""What the service's settings make of a checkpoint's wishes, how many calls fit, and how many are stepped in time."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from workers.checkpoints.files import CheckpointError, Files, files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import write_tokenizer
from workers.control_messages import WorkerConfig
from workers.engine.checkpoint import load
from workers.engine.config import config_of
from workers.engine.engine import Engine
from workers.engine.memory import MOST_CALLS, Memory, kv_step_bytes, plan
from workers.engine.start import AUTO_MEMORY_SHARE, fitting_slots, prompts_of, start_engine, warm_engine
from workers.engine.steering import FREE, Force, ForceMode
from workers.messages import PreparePrompt, PromptMessage, PromptReady, PromptRefused, Slot

ONE = Slot(0)
GIB = 1 << 30
AUTO = replace(LOOPBACK, slots=0, engine="mlx", codec="numpy", checkpoint="synthetic:random")
CONFIG = replace(AUTO, slots=1, context=50)
ARGMAX = (("text_temperature", 0.0), ("audio_temperature", 0.0))
Needed = Callable[[int], int]
"""The bytes that so many calls take on a CPU."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return files_in(make_synthetic("random:tiny:f32", synthetic_cache(tmp_path_factory)), "synthetic:random")


@pytest.fixture(scope="module")
def needed(files: Files) -> Needed:
    return lambda calls: plan(files, None, "numpy", calls).in_ram(Memory(0, 0, shared=True))


def say(files: Files, config: WorkerConfig, seed: int | None) -> list[int]:
    engine, _, _ = start_engine(files, config, lambda *_: None)
    engine.open(ONE, seed)
    return [engine.step({ONE: np.full(8, number, np.int32)})[ONE].text_token for number in range(12)]


def test_started_again_a_part_of_the_warm_up_is_left_for_later(files: Files) -> None:
    long = replace(CONFIG, context=300)
    engines = [start_engine(files, config, lambda *_: None)[0] for config in (long, replace(long, again=True))]
    assert [bool(engine.cold) for engine in engines] == [False, True]


def slots(files: Files, config: WorkerConfig, free: int) -> int:
    """Return how many calls get a slot on a CPU with so many bytes of free RAM."""
    return fitting_slots(files, config, Memory(free, free, shared=True))


def test_what_is_set_goes_before_what_the_checkpoint_wants_and_a_seed_repeats_a_call(files: Files) -> None:
    argmax = replace(CONFIG, sampling=ARGMAX)
    assert say(files, argmax, 1) == say(files, argmax, 2), "temperature 0 is argmax"
    hot = replace(CONFIG, sampling=(("text_temperature", 5.0), ("text_top_k", 1_000)))
    first = say(files, hot, 1)
    assert first != say(files, hot, 2)
    assert first == say(files, hot, 1)


def test_the_engine_knows_from_the_tokenizer_which_tokens_begin_a_word(files: Files) -> None:
    engine, _, _ = start_engine(files, replace(CONFIG, sampling=ARGMAX), lambda *_: None)
    pieces = SentencePieceProcessor(model_file=str(files.tokenizer))

    def text(step: int, force: Force) -> int:
        """Return the text token of this step of a call, forced so."""
        engine.open(ONE)
        heard = [np.full(8, number, np.int32) for number in range(step + 1)]
        tokens = [engine.step({ONE: frame}, {ONE: force} if frame[0] == step else {}) for frame in heard]
        engine.close(ONE)
        return tokens[-1][ONE].text_token

    begun = set()
    for step in range(12):
        sampled = text(step, FREE)
        begins = pieces.id_to_piece(sampled).startswith("▁")
        assert text(step, Force(9, ForceMode.AT_WORD)) == (9 if begins else sampled)
        begun.add(begins)
    assert begun == {True, False}


def test_a_tokenizer_with_more_pieces_than_the_model_knows_is_refused(files: Files, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "other.model", random_pieces(1_001))
    with pytest.raises(CheckpointError, match=r"other\.model has 1001 pieces, more than the model's 1000"):
        start_engine(replace(files, tokenizer=tmp_path / "other.model"), CONFIG, lambda *_: None)


@pytest.mark.parametrize("wanted", [2, 0])
def test_a_long_start_reports_progress_by_chunk(files: Files, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    two = plan(files, None, "numpy", 2, CONFIG.context)
    free = round((two.on_device + two.codecs) / AUTO_MEMORY_SHARE) + 1024
    monkeypatch.setattr("workers.engine.start.device_memory", lambda: Memory(free, free, shared=True))
    reports: dict[str, list[tuple[int, int]]] = {}
    config = replace(CONFIG, slots=wanted)
    start_engine(files, config, lambda what, done, total: reports.setdefault(what, []).append((done, total)))
    assert {"loading weights", "warming up"} <= reports.keys()
    for chunks in reports.values():
        assert len(chunks) > 1
        assert chunks[-1][0] == chunks[-1][1], "the end is told"


def test_auto_takes_what_fits_and_leaves_some_to_spare(files: Files, needed: Needed) -> None:
    available = round(needed(5) / AUTO_MEMORY_SHARE) + 1024
    assert slots(files, AUTO, available) == 5
    assert slots(files, AUTO, available - round(0.1 * GIB)) < 5
    assert slots(files, replace(AUTO, context=300), available) > 5, "a shorter context takes less"
    assert slots(files, AUTO, 4096 * GIB) == MOST_CALLS, "never more than a bench has shown"


def test_a_number_that_fits_is_taken_and_one_that_does_not_is_refused(files: Files, needed: Needed) -> None:
    wanted = replace(AUTO, slots=3)
    assert slots(files, wanted, needed(3)) == 3
    with pytest.raises(CheckpointError, match="MAX_CALLS=3 needs"):
        slots(files, wanted, needed(3) - 1)
    assert slots(files, replace(wanted, again=True), needed(3) - 1) == 3, "the transcriber, say, was not started again"
    with pytest.raises(CheckpointError, match="MAX_CALLS"):
        slots(files, AUTO, needed(1) // 2)


def test_on_a_card_the_calls_are_as_many_as_its_own_memory_holds(files: Files) -> None:
    wanted = plan(files, None, "numpy", 5)
    card = Memory(round(wanted.on_device / AUTO_MEMORY_SHARE) + 1024, 4096 * GIB, shared=False)
    assert fitting_slots(files, AUTO, card) == 5
    assert fitting_slots(files, AUTO, Memory(4096 * GIB, card.ram, shared=False)) == MOST_CALLS


def test_what_cannot_be_stepped_in_time_is_halved_until_it_can(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.start.full_step_s", lambda engine, progress: 0.03 * engine.slots)
    lm = load(files)
    make = partial(Engine, lm, context=64)
    slots = [warm_engine(make, 8, timely, lambda *_: None).slots for timely in (True, False)]
    assert slots == [2, 8]


def test_a_checkpoint_with_prompts_prepares_them_from_its_own_tokenizer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = files_in(make_synthetic("personaplex", synthetic_cache(tmp_path_factory)), "here")
    engine, tokenizer, _ = start_engine(files, CONFIG, lambda *_: None)
    prompts = prompts_of(engine, tokenizer, files, lambda *_: None)
    prompts.add(PreparePrompt("ada", "ba be"))
    prompts.add(PreparePrompt("ben", "", "NATF9"))
    answers: list[PromptMessage] = []
    while prompts:
        answers += prompts.work(prompts.chunk(None))
    ready, refused = answers
    assert isinstance(ready, PromptReady)
    assert ready.positions == 12 - 1 + len(tokenizer.encode("<system> ba be <system>"))
    assert ready.nbytes == ready.positions * kv_step_bytes(config_of(files))  # bf16
    assert refused == PromptRefused("ben", "the checkpoint has no voice NATF9; it has NATF0, NATM0")
