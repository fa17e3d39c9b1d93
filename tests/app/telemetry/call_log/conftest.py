"""The two kinds of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import read_settings
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from tests.app.telemetry.call_log.postgres import PostgresServer, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A database that is still empty."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/calls.db"
    else:
        url = request.getfixturevalue("server").new_database()
    address = find_address(read_settings(database_url=url, cache_dir=tmp_path))
    assert address
    return address


@pytest.fixture
def database(address: Address) -> Database:
    """One with tables."""
    database = Database(address)
    database.migrate()
    return database
