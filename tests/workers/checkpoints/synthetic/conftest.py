"""Synthetic checkpoints by their specs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic import make_synthetic

Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that they are made in."""
    return synthetic_cache(tmp_path_factory)


@pytest.fixture(scope="session")
def made(cache: Path) -> Make:
    """Return the folder of a checkpoint by its spec."""
    return lambda spec: make_synthetic(spec, cache)
