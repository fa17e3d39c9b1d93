"""Synthetic checkpoints, made once for all tests of a run."""

import os
from pathlib import Path

import pytest


def synthetic_cache(factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all tests make synthetic checkpoints, those of pytest-xdist's other processes too."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "synthetic"
