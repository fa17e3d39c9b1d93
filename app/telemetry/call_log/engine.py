"""Connections to the call log's database, each with one transaction; every failure is a CallLogError."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from app.telemetry.call_log.address import Address

MIGRATIONS = Path(__file__).parent / "migrations"
LOCKED_FOR_S = 2.0
"""How long a SQLite file may be locked by somebody else."""


class CallLogError(Exception):
    """The database is away or cannot do what is asked; the message is one line."""


class RecordRefused(CallLogError):
    """The database is there, but takes no values like these."""


class Transactions:
    """Opens a connection for each transaction."""

    def __init__(self, address: Address) -> None:
        self._is_file = address.file is not None
        self._engine = _sqlite(address.file) if address.file else _postgresql(address.conninfo)

    @contextlib.contextmanager
    def begin(self, within_s: float, writes: bool = False, checks: bool = True) -> Iterator[Connection]:
        """Begin one that a server may take so long for; without `checks` SQLite does not check foreign keys."""
        with one_error(), self._engine.connect() as connection:
            if self._is_file and not checks:
                connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            connection.execution_options(writes=writes)
            limit = contextlib.nullcontext() if self._is_file else _time_limit(connection, within_s)
            with limit, connection.begin():
                yield connection


def _sqlite(file: Path) -> Engine:
    """Return an engine that says itself when a transaction begins; one that writes takes the lock at its beginning."""
    url = URL.create("sqlite", database=str(file))
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": LOCKED_FOR_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        for pragma in ("foreign_keys = ON", "journal_mode = WAL"):  # who reads keeps nobody from writing
            connection.cursor().execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options()["writes"] else "BEGIN")

    return engine


def _postgresql(conninfo: str) -> Engine:
    """Return an engine whose connections libpq opens. Nothing is prepared: a pooler on the way may not know it."""

    def connect() -> "psycopg.Connection[Any]":
        return psycopg.connect(conninfo, prepare_threshold=None)

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, hide_parameters=True)


@contextlib.contextmanager
def _time_limit(connection: Connection, within_s: float) -> Iterator[None]:
    """Cut a connection whose server takes longer; what waits for it raises an error."""
    descriptor = os.dup(connection.connection.fileno())
    with socket.socket(fileno=descriptor) as ours:
        timer = threading.Timer(within_s, ours.shutdown, (socket.SHUT_RDWR,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Turn whatever a driver, a file or Alembic raises into a CallLogError."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, CommandError, OSError) as error:
        kind = RecordRefused if isinstance(error, DataError) else CallLogError
        raise kind(in_short(error)) from error


def migrations(connection: Connection) -> Config:
    """Return what alembic's commands take to change the tables behind a connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def in_short(error: Exception) -> str:
    """Return the kind and the first line; more may hold what a caller would not want in a log."""
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}".strip()
