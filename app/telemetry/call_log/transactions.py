"""Connections to the call log's database, each with one transaction; every failure is a CallLogError."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from app.telemetry.call_log.address import Address

LONG_LIMIT_S = 600.0
"""How long a server may take to change tables or delete old calls."""
SQLITE_LOCK_S = 2.0
"""How long a SQLite file may be locked by another process."""


class CallLogError(Exception):
    """The database is away or cannot do what is asked; the message is one line."""


class RecordRefused(CallLogError):
    """The database is there, but does not accept these values."""


class Transactions:
    """Opens a connection for each transaction: calls are rare, and a connection that is not kept cannot go stale."""

    def __init__(self, address: Address) -> None:
        self._file = address.file
        self._engine = _sqlite(address.file) if address.file else _postgresql(address.conninfo)

    @contextlib.contextmanager
    def begin(self, limit_s: float, writes: bool = False, checks: bool = True) -> Iterator[Connection]:
        """Begin one whose statements a server may take so long for; without `checks` SQLite ignores foreign keys."""
        with one_error(), self._engine.connect() as connection:
            if self._file and not checks:
                connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            connection.execution_options(writes=writes)
            with connection.begin():
                if not self._file:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(limit_s * 1000)}")
                yield connection

    def migrate(self, revision: str = "head") -> None:
        """Make or change the tables as this version, or a revision, needs them."""
        with one_error():
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file.touch(0o600)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.begin(LONG_LIMIT_S, writes=True, checks=False) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)


def _sqlite(file: Path) -> Engine:
    """Return an engine that begins transactions itself; one that writes acquires the lock at its beginning."""
    url = URL.create("sqlite", database=str(file))
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": SQLITE_LOCK_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "secure_delete = ON"):  # WAL: readers block no writer
            connection.cursor().execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options()["writes"] else "BEGIN")

    return engine


def _postgresql(conninfo: str) -> Engine:
    """Return an engine whose connections libpq opens. Nothing is prepared: a pooler on the way may not support it."""
    connect: Any = partial(psycopg.connect, conninfo, prepare_threshold=None)
    return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, hide_parameters=True)


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Turn whatever a driver, a file or Alembic raises into a CallLogError."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, CommandError, OSError) as error:
        kind = RecordRefused if isinstance(error, DataError) else CallLogError
        raise kind(in_short(error)) from error


def in_short(error: Exception) -> str:
    """Return the kind and the first line; more may hold what a caller would not want in a log."""
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}".strip()
