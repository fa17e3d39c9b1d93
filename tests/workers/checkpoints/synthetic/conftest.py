"""Stand-ins made once for all tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from workers.checkpoints.synthetic import make_standin

Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for stand-ins."""
    return tmp_path_factory.mktemp("standins")


@pytest.fixture(scope="session")
def made(cache: Path) -> Make:
    """Give the folder of a stand-in by its spec."""
    return lambda spec: make_standin(spec, cache)
