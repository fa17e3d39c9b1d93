"""The call log's database: the one module that asks it anything.

Every question opens a connection of its own: calls are rare, and a connection that is not kept cannot go stale.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from alembic import command
from sqlalchemy import (
    Connection,
    Row,
    Select,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from app.telemetry.call_log.address import Address
from app.telemetry.call_log.engine import Transactions, migrations, one_error
from app.telemetry.call_log.entry import COLUMNS, KILLED, OUTBOUND, CallEntry, Party, StreamEntry
from app.telemetry.call_log.merge import merged
from app.telemetry.call_log.models import calls, events, expiry, pieces, streams
from app.telemetry.expiry import may_expire, put_off_since
from app.twilio.parties import mask_number, name_of

WRITE_WITHIN_S, ANSWER_WITHIN_S, LONG_S = 15.0, 60.0, 600.0
"""How long a server may take to write one record, to answer a question, to change tables or delete what is old."""
ROWS_AT_ONCE = 500
CHOICE = 5


class CallNotFound(Exception):
    """No call, or more than one, has a SID like this; the message says which."""


class Database:
    """The tables, behind questions that are answered in one transaction each. Everything may raise CallLogError."""

    def __init__(self, address: Address) -> None:
        self._file = address.file
        self._engine = Transactions(address)

    def migrate(self) -> None:
        """Make or change the tables as this version needs them."""
        with one_error():
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        with self._engine.begin(LONG_S, writes=True, checks=False) as connection:
            command.upgrade(migrations(connection), "head")

    def check(self) -> None:
        """Ask the database whether it is there."""
        with self._engine.begin(ANSWER_WITHIN_S) as connection:
            connection.execute(select(1))

    def write(self, entry: CallEntry) -> None:
        """Put in a call, in place of what this run of the service has written of it; twice is as good as once.

        What is older than what is there changes nothing: it has fewer streams, or as many and has not ended.
        """
        mine = and_(calls.c.call_sid == entry.call_sid, calls.c.service == entry.service)
        with self._engine.begin(WRITE_WITHIN_S, writes=True) as connection:
            if there := connection.execute(select(calls.c.id, calls.c.ended_at).where(mine)).first():
                count = connection.scalar(select(func.count()).where(streams.c.call_id == there.id)) or 0
                if (len(entry.streams), entry.ended_at is not None) < (count, there.ended_at is not None):
                    return
            connection.execute(delete(calls).where(mine))
            values = {name: getattr(entry, name) for name in COLUMNS}
            call_id = connection.scalar(insert(calls).values(values).returning(calls.c.id))
            _insert(connection, pieces, call_id, [{"at_s": at_s, "text": text} for at_s, text in entry.pieces])
            told = [{"at_s": at_s, "kind": kind, "detail": detail} for at_s, kind, detail in entry.events]
            _insert(connection, events, call_id, told)
            _insert(connection, streams, call_id, [asdict(stream) for stream in entry.streams])

    def close_killed(self, service: str, alive_at: datetime) -> int:
        """End the calls that a killed run of the service left open; it was last seen `alive_at`. Return how many."""
        with self._engine.begin(ANSWER_WITHIN_S, writes=True) as connection:
            is_open = and_(calls.c.service == service, calls.c.ended_at.is_(None))
            found = connection.execute(select(calls.c.id, calls.c.reserved_at).where(is_open)).all()
            for call_id, reserved_at in found:
                _close_killed(connection, call_id, reserved_at, max(alive_at, reserved_at))
            return len(found)

    def expire(self, before: datetime, now: datetime) -> tuple[int, int]:
        """Delete the calls that ended before this moment; return how many, and how many are put off."""
        with self._engine.begin(LONG_S, writes=True) as connection:
            is_old = calls.c.ended_at < before
            old = connection.scalar(select(func.count()).select_from(calls).where(is_old)) or 0
            total = connection.scalar(select(func.count()).select_from(calls)) or 0
            since = connection.scalar(select(expiry.c.put_off_at))
            connection.execute(delete(expiry))
            if not may_expire(old, total, since, now):
                connection.execute(insert(expiry).values(id=1, put_off_at=put_off_since(since, now)))
                return 0, old
            connection.execute(delete(calls).where(is_old))
            return old, 0

    def forget(self, name: str) -> tuple[int, int]:
        """Delete the calls with the party of this name; return how many went, and how many stay because they are on."""
        with self._engine.begin(ANSWER_WITHIN_S, writes=True) as connection:
            over, on = _calls_with(connection, name)
            for some in _portions([row_id for ids in over.values() for row_id in ids]):
                connection.execute(delete(calls).where(calls.c.id.in_(some)))
            return len(over), len(on)

    def recordings_with(self, name: str) -> tuple[set[str], set[str]]:
        """Return the SIDs of the calls with this party that are over, and the names of their known recordings."""
        found: set[str] = set()
        with self._engine.begin(ANSWER_WITHIN_S) as connection:
            over, _ = _calls_with(connection, name)
            for some in _portions([row_id for ids in over.values() for row_id in ids]):
                found |= set(connection.scalars(select(calls.c.recording).where(calls.c.id.in_(some))))
                found |= set(connection.scalars(select(streams.c.recording).where(streams.c.call_id.in_(some))))
        return set(over), found - {""}

    def recent(self, limit: int) -> list[CallEntry]:
        """Return the last calls, the newest first, without what was said, what happened, and streams."""
        other = calls.alias()
        is_earlier = or_(
            other.c.reserved_at < calls.c.reserved_at,
            and_(other.c.reserved_at == calls.c.reserved_at, other.c.id < calls.c.id),
        )
        begins = ~exists().where(other.c.call_sid == calls.c.call_sid, is_earlier)
        newest = select(calls.c.call_sid).where(begins).order_by(calls.c.reserved_at.desc(), calls.c.id.desc())
        wanted = newest.limit(limit).subquery()
        with self._engine.begin(ANSWER_WITHIN_S) as connection:
            found = _found(connection, calls.c.call_sid.in_(select(wanted.c.call_sid)))
        entries = [merged([_entry(row) for row in rows]) for rows in found.values()]
        return entries[::-1]

    def find(self, sid: str) -> CallEntry:
        """Return the call whose SID is this, begins or ends so, with all that is kept of it. Raises CallNotFound."""
        begins, ends = (like(sid, autoescape=True) for like in (calls.c.call_sid.startswith, calls.c.call_sid.endswith))
        with self._engine.begin(ANSWER_WITHIN_S) as connection:
            found = _found(connection, calls.c.call_sid == sid)
            if not found:
                some = select(calls.c.call_sid).where(or_(begins, ends)).distinct().limit(CHOICE)
                found = _found(connection, calls.c.call_sid.in_(connection.scalars(some).all()))
            if not found:
                raise CallNotFound(f"no call has a SID that is, begins or ends with {sid}")
            if len(found) > 1:
                raise CallNotFound(f"more than one call: {', '.join(sorted(found))}")
            return merged([_whole(connection, row) for rows in found.values() for row in rows])


def _insert(connection: Connection, table: Table, call_id: int | None, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        numbered = [{"number": number, **row, "call_id": call_id} for number, row in enumerate(rows)]
        connection.execute(insert(table), numbered)


def _close_killed(connection: Connection, call_id: int, reserved_at: datetime, ended_at: datetime) -> None:
    end = {"ended_at": ended_at, "end_reason": KILLED}
    connection.execute(update(calls).where(calls.c.id == call_id).values(**end, ended_by=Party.SERVICE))
    open_streams = and_(streams.c.call_id == call_id, streams.c.ended_at.is_(None))
    connection.execute(update(streams).where(open_streams).values(end))
    number = connection.scalar(select(func.count()).where(events.c.call_id == call_id))
    at_s = round((ended_at - reserved_at).total_seconds(), 4)
    values = {"call_id": call_id, "number": number, "at_s": at_s, "kind": "ended", "detail": KILLED}
    connection.execute(insert(events).values(values))


def _calls_with(connection: Connection, name: str) -> tuple[dict[str, list[int]], set[str]]:
    """Return the rows of the calls that are over by SID, and the SIDs of those that are on.

    They are those whose other party has this name, however the call log has it written.
    """
    columns = (calls.c.id, calls.c.call_sid, calls.c.ended_at, calls.c.direction, calls.c.caller, calls.c.called)
    rows, on = defaultdict(list), set()
    for row in connection.execute(select(*columns)):
        if name_of(row.called if row.direction.startswith(OUTBOUND) else row.caller) == name:
            rows[row.call_sid].append(row.id)
            on |= set() if row.ended_at else {row.call_sid}
    return {sid: ids for sid, ids in rows.items() if sid not in on}, on


def _portions(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), ROWS_AT_ONCE):
        yield ids[start : start + ROWS_AT_ONCE]


def _found(connection: Connection, condition: Any) -> dict[str, list[Row[Any]]]:
    """Return the rows of each call by SID, in the order of the reservations."""
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(select(calls).where(condition).order_by(calls.c.reserved_at, calls.c.id)):
        found[row.call_sid].append(row)
    return found


def _entry(row: Row[Any], **more: Any) -> CallEntry:
    values = {name: getattr(row, name) for name in COLUMNS}
    values |= {"caller_masked": mask_number(row.caller), "called_masked": mask_number(row.called)}
    return CallEntry(**values, **more)


def _whole(connection: Connection, row: Row[Any]) -> CallEntry:
    return _entry(
        row,
        pieces=[(one.at_s, one.text) for one in connection.execute(_of(pieces, row))],
        events=[(one.at_s, one.kind, one.detail) for one in connection.execute(_of(events, row))],
        streams=[StreamEntry(*one[1:]) for one in connection.execute(_of(streams, row))],
    )


def _of(table: Table, row: Row[Any]) -> "Select[Any]":
    return select(table).where(table.c.call_id == row.id).order_by(table.c.number)
