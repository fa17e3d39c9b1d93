"""One random Mimi for all tests of this folder, and the weights in it."""

from pathlib import Path

import pytest

from tests.synthetic import random_mimi
from workers.codec.choose import make_decoder, make_encoder
from workers.codec.mimi import MimiDecoder, MimiEncoder

SLOTS = 3


@pytest.fixture(scope="session")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of float32 with 8 codebooks."""
    return random_mimi(tmp_path_factory)


@pytest.fixture(scope="session")
def encoder(mimi: Path) -> MimiEncoder:
    """Three slots on numpy; a test opens those that it uses."""
    return make_encoder("numpy", mimi, SLOTS)


@pytest.fixture(scope="session")
def decoder(mimi: Path) -> MimiDecoder:
    """Three slots on numpy; a test opens those that it uses."""
    return make_decoder("numpy", mimi, SLOTS)
