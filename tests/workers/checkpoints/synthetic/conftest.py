"""Synthetic checkpoints by their specs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic import make_synthetic

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the folder of a checkpoint by its spec."""
    return lambda spec: make_synthetic(spec, synthetic_cache(tmp_path_factory))
