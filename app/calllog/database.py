"""The call log's database: the one module that asks it anything.

Every question opens a connection of its own: calls are rare, and a connection that is not kept cannot go stale.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    event,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from app.calllog.address import Address
from app.calllog.entry import COLUMNS, KILLED, CallEntry, Party
from app.calllog.models import OUTBOUND, Call, CallEvent, Piece

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_ARGS = {"sqlite": {"timeout": 2.0}, "postgresql": {"timeout": 5.0, "command_timeout": 10.0}}
"""Seconds until a database that does not answer is taken to be away."""
ROWS_AT_ONCE = 500
CHOICE = 5
DATA_EXCEPTION = "22"
"""How the SQLSTATE of a value begins that PostgreSQL cannot keep."""


class CallNotFound(Exception):
    """No call, or more than one, has a SID like this; the message says which."""


class Database:
    """The tables, behind questions that are answered in one transaction each.

    Everything may raise what the driver raises when the database is away.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._engine = create_async_engine(
            address.url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args=CONNECT_ARGS[address.url.get_backend_name()],
        )
        if address.file:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)

    async def migrate(self) -> None:
        """Make or change the tables as this version needs them."""
        if self._address.file:
            self._address.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._address.file, os.O_CREAT | os.O_RDWR, 0o600))
        async with self._engine.begin() as connection:
            await connection.run_sync(_upgrade)

    async def write(self, entry: CallEntry) -> None:
        """Put in a call that began, or that has ended in place of what was there of it; twice is as good as once."""
        values = {name: getattr(entry, name) for name in COLUMNS}
        async with self._engine.begin() as connection:
            if entry.ended_at is None and await connection.scalar(_with_sid(entry.call_sid)) is not None:
                return
            await connection.execute(delete(Call).where(Call.call_sid == entry.call_sid))
            call_id = await connection.scalar(insert(Call).values(values).returning(Call.id))
            pieces = [
                {"call_id": call_id, "number": number, "at_s": at_s, "text": text}
                for number, (at_s, text) in enumerate(entry.pieces)
            ]
            await _insert(connection, Piece, pieces)
            events = [
                {"call_id": call_id, "number": number, "at_s": at_s, "kind": kind, "detail": detail}
                for number, (at_s, kind, detail) in enumerate(entry.events)
            ]
            await _insert(connection, CallEvent, events)

    async def close_killed(self, service: str, alive_at: datetime) -> int:
        """End the calls that a killed run of the service left open; it was last seen `alive_at`. Return how many."""
        async with self._engine.begin() as connection:
            are_open = and_(Call.service == service, Call.ended_at.is_(None))
            open_calls = (await connection.execute(select(Call.id, Call.reserved_at).where(are_open))).all()
            for call_id, reserved_at in open_calls:
                ended_at = max(alive_at, reserved_at)
                end = {"ended_at": ended_at, "end_reason": KILLED, "ended_by": Party.SERVICE}
                await connection.execute(update(Call).where(Call.id == call_id).values(end))
                number = select(func.count()).where(CallEvent.call_id == call_id)
                at_s = round((ended_at - reserved_at).total_seconds(), 4)
                ended = {"call_id": call_id, "number": await connection.scalar(number), "at_s": at_s}
                await connection.execute(insert(CallEvent).values(kind="ended", detail=KILLED, **ended))
            return len(open_calls)

    async def expire(self, before: datetime) -> int:
        """Delete the calls that ended before this moment; return how many."""
        async with self._engine.begin() as connection:
            return (await connection.execute(delete(Call).where(Call.ended_at < before))).rowcount

    async def forget(self, number: str) -> tuple[int, int]:
        """Delete the calls with this person, E.164; return how many went, and how many stay because they are on."""
        async with self._engine.begin() as connection:
            is_over = Call.ended_at.is_not(None)
            gone = (await connection.execute(delete(Call).where(_is_with(number), is_over))).rowcount
            return gone, await connection.scalar(select(func.count()).where(_is_with(number), not_(is_over))) or 0

    async def recordings_with(self, number: str) -> Sequence[str]:
        """Return the names of the recordings of the calls with this person that are over."""
        named = select(Call.recording).where(_is_with(number), Call.ended_at.is_not(None), Call.recording != "")
        async with self._engine.connect() as connection:
            return (await connection.scalars(named)).all()

    async def recent(self, limit: int) -> Sequence[Call]:
        """Return the last calls, the newest first, without transcripts."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            newest = select(Call).order_by(Call.reserved_at.desc(), Call.id.desc()).limit(limit)
            return (await session.scalars(newest)).all()

    async def find(self, sid: str) -> Call:
        """Return the call whose SID is this, begins or ends so, with transcript and events. Raises CallNotFound."""
        whole = select(Call).options(selectinload(Call.pieces), selectinload(Call.events))
        begins, ends = Call.call_sid.startswith(sid, autoescape=True), Call.call_sid.endswith(sid, autoescape=True)
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            if call := await session.scalar(whole.where(Call.call_sid == sid)):
                return call
            found = (await session.scalars(whole.where(or_(begins, ends)).limit(CHOICE))).all()
        match found:
            case [call]:
                return call
            case []:
                raise CallNotFound(f"no call has a SID that is, begins or ends with {sid}")
            case _:
                raise CallNotFound(f"more than one call: {', '.join(sorted(call.call_sid for call in found))}")

    async def close(self) -> None:
        """Let go of the driver."""
        await self._engine.dispose()


def _upgrade(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")


def migrations(connection: Connection) -> Config:
    """Return what alembic's commands take to change the tables behind a connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")  # who reads keeps nobody from writing
    cursor.close()


def _with_sid(call_sid: str) -> Select[int]:
    return select(Call.id).where(Call.call_sid == call_sid)


def _is_with(number: str) -> ColumnElement[bool]:
    """Whether the person at the other end has this number."""
    is_outbound = Call.direction.startswith(OUTBOUND)
    return or_(and_(is_outbound, Call.called == number), and_(not_(is_outbound), Call.caller == number))


async def _insert(connection: AsyncConnection, table: type[Piece | CallEvent], rows: list[dict[str, object]]) -> None:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        await connection.execute(insert(table), rows[start : start + ROWS_AT_ONCE])


def is_refusal(error: Exception) -> bool:
    """Whether a record is wrong, rather than the database away."""
    code = str(getattr(getattr(error, "orig", None), "sqlstate", None))
    return isinstance(error, ValueError | DataError | IntegrityError) or code.startswith(DATA_EXCEPTION)


def in_short(error: Exception) -> str:
    """Return the kind and the first line; more may hold what a caller would not want in a log."""
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}".strip()
