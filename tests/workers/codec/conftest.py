"""One random Mimi for all tests of this folder, and the weights in it."""

from pathlib import Path

import pytest

from workers.checkpoints.synthetic import make_standin
from workers.checkpoints.synthetic.make import MIMI_FILE
from workers.codec.calls import Decoder, Encoder
from workers.codec.choose import make_decoder, make_encoder

SLOTS = 3


@pytest.fixture(scope="session")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of float32 with 8 codebooks."""
    return make_standin("random", tmp_path_factory.mktemp("mimi")) / MIMI_FILE


@pytest.fixture(scope="session")
def encoder(mimi: Path) -> Encoder:
    """Three slots on numpy; a test opens those that it uses."""
    return make_encoder("numpy", mimi, SLOTS)


@pytest.fixture(scope="session")
def decoder(mimi: Path) -> Decoder:
    """Three slots on numpy; a test opens those that it uses."""
    return make_decoder("numpy", mimi, SLOTS)
