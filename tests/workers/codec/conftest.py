"""One random Mimi for all tests of this folder, and the weights in it."""

from pathlib import Path

import pytest

from tests.synthetic import synthetic_cache
from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic import make_synthetic
from workers.codec.choose import make_codec
from workers.codec.mimi import Mimi
from workers.messages import Stage

SLOTS = 3
STAGES = (Stage.ENCODE, Stage.DECODE)
Codecs = dict[Stage, Mimi]


@pytest.fixture(scope="session")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of float32."""
    return make_synthetic("random", synthetic_cache(tmp_path_factory)) / MIMI


@pytest.fixture(scope="session")
def codecs(mimi: Path) -> Codecs:
    """Encoder and decoder of three slots on numpy; a test opens those that it uses."""
    return {stage: make_codec(stage, "numpy", mimi, SLOTS) for stage in STAGES}
