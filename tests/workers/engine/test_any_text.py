"""Any text at all may be a greeting or a sentence: it ends, others are not kept waiting, its words are heard once."""

import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from tests.scale import scaled
from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from tests.workers.engine.speaker import PADDING, SpeechBackend, stage_of
from workers.checkpoints.files import Files, files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.engine.stage import EngineStage
from workers.engine.start import start_engine
from workers.engine.steering import SENTENCE_WITHIN_STEPS, WordPart
from workers.engine.text import MOST_PIECES, Tokenizer
from workers.messages import CallPersona, Codes, Epoch, Open, Said, Say, Slot

TEXTS, CALLS = 1_000, 16
MOST_STEPS = SENTENCE_WITHIN_STEPS + MOST_PIECES
SILENCE = np.zeros((1, 8), np.int32)
SAMPLED = [WordPart.BEGINNING, WordPart.NONE, WordPart.CONTINUATION, WordPart.NONE]
FRAME = np.full(8, 7, np.int32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return files_in(make_synthetic("random:tiny:f32", synthetic_cache(tmp_path_factory)), "synthetic:random")


@cache
def _characters() -> list[str]:
    """Return characters of every kind: letters of many scripts, digits, emoji, control characters, surrogates."""
    kinds: dict[str, list[str]] = {}
    for code in range(0x20000):
        kinds.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    rng = random.Random(2)
    return [character for kind in kinds.values() for character in rng.sample(kind, min(len(kind), 40))]


def texts(count: int) -> Iterator[str]:
    """Return random texts, among them empty ones, some of 2,000 characters, and words without an end."""
    rng = random.Random(1)
    kinds = [
        "abcdefghij ",
        "0123456789 .,-",
        "hällo wörld ñ ",
        "".join(_characters()),
        "\0\t\n\r\x7f\x1b a",
        "\ud800\udfff a",
    ]
    for number in range(count):
        length = 2_000 if number % 50 == 0 else rng.choice([0, 1, 5, 20, 80])
        yield "".join(rng.choices(rng.choice(kinds) if number % 100 else "x", k=length))


def say_all(stage: EngineStage, group: list[str]) -> list[tuple[str, bool]]:
    """Say a text in each call, in every other one as its greeting; return what was said until its end, and if whole."""
    spoken: dict[Slot, str] = {}
    ends: dict[Slot, tuple[str, bool]] = {}
    free = Slot(len(group))
    for number, text in enumerate([*group, ""]):
        slot, greeting = Slot(number), text if number % 2 else ""
        stage.receive(Open(slot, Epoch(1), silence=SILENCE, seed=number, persona=CallPersona(greeting)))
        if slot != free and not greeting:
            stage.receive(Say(slot, Epoch(1), 0, text))
        spoken[slot] = ""
    for seq in range(MOST_STEPS):
        for slot in spoken:
            stage.receive(Codes(slot, Epoch(1), seq, FRAME))
        out = stage.work()
        assert [message.slot for message in out if isinstance(message, Codes)] == [*spoken], "nobody waits"
        for message in out:
            if isinstance(message, Codes):
                spoken[message.slot] += message.text
            if isinstance(message, Said):
                assert message.slot not in ends
                ends[message.slot] = spoken[message.slot], message.whole
        if len(ends) == len(group):
            break
    return [ends[slot] for slot in spoken if slot != free]


def assert_said(model: SentencePieceProcessor, text: str, transcript: str, whole: bool) -> None:
    """The words came once and in order, behind the rest of a word of the model's own; not whole: some of them came."""
    spaced = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).encode(errors="replace").decode()
    words = model.normalize(spaced).replace("▁", " ").split(" ")
    words, said = ([word for word in part if word] for part in (words, transcript.split(" ")[1:]))
    assert whole or len(text) > 80
    if whole:
        assert said == words or not words
    else:
        assert " ".join(words).startswith(" ".join(said))
        assert len(transcript) > 80


def assert_all_said(stage: EngineStage, files: Files, count: int) -> None:
    model, all_texts = SentencePieceProcessor(model_file=str(files.tokenizer)), [*texts(count)]
    for start in range(0, count, CALLS):
        group = all_texts[start : start + CALLS]
        for text, (transcript, whole) in zip(group, say_all(stage, group), strict=True):
            assert_said(model, text, transcript, whole)


def test_any_text_is_said_by_a_model_that_begins_words(files: Files) -> None:
    tokenizer = Tokenizer(files.tokenizer)
    samples = [PADDING if part is WordPart.NONE else tokenizer.word_parts.index(part) for part in SAMPLED]
    speaker = SpeechBackend(samples, tokenizer.word_parts.__getitem__)
    assert_all_said(stage_of(speaker, tokenizer), files, scaled(TEXTS))


@pytest.mark.slow
def test_any_text_is_said_by_a_moshi_with_random_weights(files: Files) -> None:
    config = replace(LOOPBACK, slots=CALLS + 1, engine="mlx", checkpoint="synthetic:random", context=256)
    engine, tokenizer, _ = start_engine(files, config, lambda *_: None)
    assert_all_said(EngineStage(engine, tokenizer), files, scaled(TEXTS // 20))
