from collections.abc import Callable
from pathlib import Path

import numpy as np
import rustymimi
from moshi_mlx.models.mimi import Mimi, mimi_202407

from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic.phrases import phrases
from workers.checkpoints.synthetic.random_mimi import random_mimi
from workers.messages import FRAME_SAMPLES


def test_speech_becomes_codes_that_vary_and_codes_become_audible_noise(made: Callable[[str], Path]) -> None:
    mimi = rustymimi.Tokenizer(str(made("parrot") / MIMI), num_codebooks=8)
    codes = mimi.encode_step(phrases()[0].pcm[None, None, : 10 * FRAME_SAMPLES])
    assert codes.shape == (1, 8, 10)
    assert len(np.unique(codes)) > 30
    pcm = mimi.decode_step(np.ascontiguousarray(codes))
    assert 0.02 < pcm.std() < 0.3
    assert np.abs(pcm).max() < 2


def test_a_tensor_is_the_same_whenever_it_is_made() -> None:
    name = "encoder.model.3.conv.conv.weight"
    assert np.array_equal(random_mimi()[name].make(), random_mimi()[name].make())


def test_the_official_mimi_loads_it(made: Callable[[str], Path]) -> None:
    Mimi(mimi_202407(8)).load_pytorch_weights(str(made("parrot") / MIMI), strict=True)
