"""The two kinds of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import Database
from tests.app.telemetry.call_log.postgres import PostgresServer, postgres
from tests.app.telemetry.call_log.records import address_of


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A database that is still empty."""
    if request.param == "sqlite":
        return address_of(f"sqlite:///{tmp_path}/calls.db", tmp_path)
    return address_of(request.getfixturevalue("server").new_database(), tmp_path)


@pytest.fixture
def database(address: Address) -> Database:
    """One with tables."""
    database = Database(address)
    database.migrate()
    return database
