"""The parrot, run by the official code. `workers.checkpoints.synthetic.parrot` says why the delay is what it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from tests.workers.checkpoints.synthetic.official import Codes, converse, load, quantise
from workers.checkpoints.files import TOKENIZER
from workers.checkpoints.synthetic.parrot import STEPS_A_WORD, WORDS, text_token, text_word

Made = Callable[[str], Path]


def random_codes(frames: int, seed: int = 0) -> Codes:
    codes = np.random.default_rng(seed).integers(0, 2_048, (frames, 8), np.int32)
    codes[3], codes[4] = 0, 2_047
    return codes


def test_any_codes_come_back_two_frames_later_for_hours(made: Made) -> None:
    """Two, as the official engine reads a frame a step late; with a context of 50 steps the ring wraps five times."""
    caller = random_codes(270)
    tokens, frames = converse(load(made("parrot"), context=50), caller)
    assert not frames[0].any()
    assert np.array_equal(frames[1:], caller[:-2])
    assert tokens == [text_token(step) for step in range(270)]


def test_every_code_of_every_codebook(made: Made) -> None:
    caller = (np.arange(2_048)[:, None] * np.array([1, 3, 5, 7, 9, 11, 13, 15]) % 2_048).astype(np.int32)[
        :: 2_048 // 64
    ]
    _, frames = converse(load(made("parrot")), caller)
    assert np.array_equal(frames[1:], caller[:-2])


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_it_says_the_same(made: Made, bits: int) -> None:
    lm, caller = load(made("parrot")), random_codes(40)
    quantise(lm, bits)
    tokens, frames = converse(lm, caller)
    assert np.array_equal(frames[1:], caller[:-2])
    assert tokens == [text_token(step) for step in range(40)]


def test_it_counts_to_ten(made: Made) -> None:
    pieces = SentencePieceProcessor(model_file=str(made("parrot") / TOKENIZER))
    steps = range(2 * STEPS_A_WORD * len(WORDS))
    assert pieces.decode([text_token(step) for step in steps]) == " ".join(WORDS * 2)
    assert [text_word(step) for step in steps] == [pieces.decode([text_token(step)]) for step in steps]
