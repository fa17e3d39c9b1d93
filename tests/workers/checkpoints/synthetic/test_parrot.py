"""The parrot, run by the official code. `workers.checkpoints.synthetic.parrot` says why they come when they come."""

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import Codes, converse, load
from workers.checkpoints.files import TOKENIZER
from workers.checkpoints.synthetic.parrot import STEPS_A_WORD, WORDS, text_token, text_word


def random_codes(frames: int) -> Codes:
    codes = np.random.default_rng(0).integers(0, 2_048, (frames, 8), np.int32)
    codes[3], codes[4] = 0, 2_047
    return codes


@pytest.mark.parametrize(("bits", "context"), [(None, 20), pytest.param(8, None, marks=pytest.mark.slow), (4, None)])
def test_any_codes_come_back_two_frames_later_for_hours_and_quantised(
    made: Made, bits: int | None, context: int | None
) -> None:
    """Two, as the official engine reads a frame a step late; with a context of 20 steps the KV cache wraps twice."""
    caller = random_codes(50)
    tokens, frames = converse(load(made("parrot"), context, bits), caller)
    assert not frames[0].any()
    assert np.array_equal(frames[1:], caller[:-2])
    assert tokens == [text_token(step) for step in range(50)]


def test_it_counts_to_ten(made: Made) -> None:
    pieces = SentencePieceProcessor(model_file=str(made("parrot") / TOKENIZER))
    steps = range(2 * STEPS_A_WORD * len(WORDS))
    assert pieces.decode([text_token(step) for step in steps]) == " ".join(WORDS * 2)
    assert [text_word(step) for step in steps] == [pieces.decode([text_token(step)]) for step in steps]
