"""Synthetic checkpoints, made once for all tests of a run."""

import os
from pathlib import Path

import pytest

from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic import make_synthetic


def synthetic_cache(factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all tests make synthetic checkpoints, those of pytest-xdist's other processes too."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "synthetic"


def random_mimi(factory: pytest.TempPathFactory) -> Path:
    """Return the file of a random Mimi: float32, 8 codebooks."""
    return make_synthetic("random:f32", synthetic_cache(factory)) / MIMI
