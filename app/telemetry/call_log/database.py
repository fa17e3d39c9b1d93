"""The call log's database: every query is in this module."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, exists, func, insert, or_, select

from app.telemetry.call_log.entry import COLUMNS, KINDS, OUTBOUND, CallEntry, merge
from app.telemetry.call_log.schema import LISTS, calls, forgotten_calls, turns
from app.telemetry.call_log.search import OPTIMIZE, FoundTurn, find_turns, row_of
from app.telemetry.call_log.transactions import LONG_LIMIT_S, Transactions
from app.twilio.parties import mask_number, name_of

WRITE_LIMIT_S, QUERY_LIMIT_S = 15.0, 60.0
"""How long a server may take to write a record, to answer a query."""
MAX_CHOICES = 5
LONGEST_CALL = timedelta(days=1)
"""Longer than any MAX_CALL_SECONDS. What is open since then is of a run that died with its machine: nobody ends it."""
FORGOTTEN_FOR = timedelta(days=30)
"""How long it is known which calls are forgotten: until then no service and no spool brings them back."""


class CallNotFound(Exception):
    """No call, or more than one, has a SID like this; the message says which."""


class Database(Transactions):
    """The tables; each method is one transaction. Everything may raise CallLogError."""

    def write(self, entry: CallEntry) -> None:
        """Put in a call, in place of what the same run of the service has written of it; not one that is forgotten."""
        with self.begin(WRITE_LIMIT_S, writes=True) as connection:
            _write(connection, entry)

    def close_killed(self, run: str, alive_at: datetime) -> int:
        """End the calls that a killed run of the service left open; it was last alive `alive_at`. Return how many."""
        with self.begin(QUERY_LIMIT_S, writes=True) as connection:
            found = _rows(connection, and_(calls.c.service == run, calls.c.ended_at.is_(None)))
            for row in found:
                _write(connection, _whole(connection, row).killed(alive_at))
            return len(found)

    def count_old(self, before: datetime) -> tuple[int, int]:
        counts = select(func.count().filter(_are_old(before)), func.count()).select_from(calls)
        with self.begin(QUERY_LIMIT_S) as connection:
            old, total = connection.execute(counts).one()
            return old, total

    def delete_old(self, before: datetime) -> int:
        with self.begin(LONG_LIMIT_S, writes=True) as connection:
            deleted = connection.execute(delete(calls).where(_are_old(before))).rowcount
            _wipe_index(connection)
            return deleted

    def forget(self, name: str) -> tuple[int, int]:
        """Delete the calls with the party of this name; return how many went, and how many stay because they are on.

        What is written of a deleted call afterwards, by whichever run of the service, is dropped.
        """
        with self.begin(QUERY_LIMIT_S, writes=True) as connection:
            _exclude_writers(connection)
            over, on = _calls_with(connection, name)
            ids = [{"row_id": row.id} for rows in over.values() for row in rows]
            if ids:
                connection.execute(delete(calls).where(calls.c.id == bindparam("row_id")), ids)
                _wipe_index(connection)
                _add_forgotten(connection, over, datetime.now(UTC))
            return len(over), on

    def forgotten(self) -> set[str]:
        """Return the SIDs of the calls that were forgotten within `FORGOTTEN_FOR`, or some longer ago."""
        with self.begin(QUERY_LIMIT_S) as connection:
            return set(connection.scalars(select(forgotten_calls.c.call_sid)))

    def recordings_with(self, name: str) -> tuple[set[str], set[str]]:
        """Return the SIDs of the calls with this party that are over, and the names of their known recordings."""
        with self.begin(QUERY_LIMIT_S) as connection:
            over, _ = _calls_with(connection, name)
            rows = {row.id: row.recording for some in over.values() for row in some}
            streams = LISTS["streams"].c
            of_streams = connection.execute(select(streams.call_id, streams.recording))
            found = {*rows.values(), *(recording for call_id, recording in of_streams if call_id in rows)}
            return set(over), found - {""}

    def recent(self, limit: int) -> list[CallEntry]:
        """Return the last calls, the newest first, without transcript, events and streams."""
        begin = (func.min(calls.c.reserved_at).desc(), func.min(calls.c.id).desc())
        newest = select(calls.c.call_sid).group_by(calls.c.call_sid).order_by(*begin).limit(limit)
        found: dict[str, list[CallEntry]] = defaultdict(list)
        with self.begin(QUERY_LIMIT_S) as connection:
            for row in _rows(connection, calls.c.call_sid.in_(newest)):
                found[row.call_sid].append(_entry(row))
        return [merge(runs) for runs in reversed(found.values())]

    def search(self, query: str, limit: int) -> list[FoundTurn]:
        """Return the last turns in which all words of a query were said."""
        with self.begin(QUERY_LIMIT_S) as connection:
            return find_turns(connection, query, limit)

    def find(self, sid: str) -> CallEntry:
        """Return the call whose SID is this, begins or ends so, with all that is known of it. Raises CallNotFound."""
        begins, ends = (like(sid, autoescape=True) for like in (calls.c.call_sid.startswith, calls.c.call_sid.endswith))
        alike = select(calls.c.call_sid).where(or_(begins, ends)).group_by(calls.c.call_sid)
        with self.begin(QUERY_LIMIT_S) as connection:
            found = connection.scalars(alike.order_by(calls.c.call_sid != sid).limit(MAX_CHOICES)).all()
            if not found:
                raise CallNotFound(f"no call has a SID that is, begins or ends with {sid}")
            if len(found) > 1 and sid not in found:
                raise CallNotFound(f"more than one call: {', '.join(sorted(found))}")
            return merge([_whole(connection, row) for row in _rows(connection, calls.c.call_sid == found[0])])


def _are_old(before: datetime) -> ColumnElement[bool]:
    left_open = and_(calls.c.ended_at.is_(None), calls.c.reserved_at < before - LONGEST_CALL)
    return or_(calls.c.ended_at < before, left_open)


def _wipe_index(connection: Connection) -> None:
    """Remove the words of deleted turns from SQLite's index, which only marks them as deleted.

    Its option `secure-delete` does so at once, but needs SQLite 3.42, and earlier ones cannot read the file then.
    """
    if connection.dialect.name == "sqlite":
        connection.execute(OPTIMIZE)


def _exclude_writers(connection: Connection) -> None:
    """Let nobody write calls until the end of the transaction: one that replaces a row would bring it back."""
    if connection.dialect.name == "postgresql":  # a transaction of SQLite that writes is alone anyway
        connection.exec_driver_sql("LOCK TABLE calls IN SHARE ROW EXCLUSIVE MODE")


def _add_forgotten(connection: Connection, call_sids: Iterable[str], now: datetime) -> None:
    connection.execute(delete(forgotten_calls).where(forgotten_calls.c.forgotten_at < now - FORGOTTEN_FOR))
    connection.execute(insert(forgotten_calls), [{"call_sid": one, "forgotten_at": now} for one in call_sids])


def _write(connection: Connection, entry: CallEntry) -> None:
    mine = and_(calls.c.call_sid == entry.call_sid, calls.c.service == entry.service)
    connection.execute(delete(calls).where(mine))
    # After the deletion, which waits for a `forget` under way.
    if connection.scalar(select(exists().where(forgotten_calls.c.call_sid == entry.call_sid))):
        return
    values = {name: getattr(entry, name) for name in COLUMNS}
    call_id = connection.scalar(insert(calls).values(values).returning(calls.c.id))
    for name, table in LISTS.items():
        if rows := [{"number": at, **row._asdict()} for at, row in enumerate(getattr(entry, name), 1)]:
            connection.execute(insert(table).values(call_id=call_id), rows)
    if spoken := [row_of(turn) for turn in entry.turns]:
        connection.execute(insert(turns).values(call_id=call_id), spoken)


def _calls_with(connection: Connection, name: str) -> tuple[dict[str, list[Row[Any]]], int]:
    """Return the rows of the calls that are over by SID, and how many calls are on.

    They are those whose other party has this name, however the call log has it written, or the chat with this id.
    """
    columns = ("id", "call_sid", "reserved_at", "ended_at", "direction", "caller", "called", "recording")
    rows, left_open = defaultdict(list), datetime.now(UTC) - LONGEST_CALL
    for row in connection.execute(select(*(calls.c[column] for column in columns))):
        party = name_of(row.called if row.direction.startswith(OUTBOUND) else row.caller)
        if name in (party, row.call_sid):
            rows[row.call_sid].append(row)
    over = {sid: some for sid, some in rows.items() if all(row.ended_at or row.reserved_at < left_open for row in some)}
    return over, len(rows) - len(over)


def _rows(connection: Connection, condition: ColumnElement[bool]) -> list[Row[Any]]:
    """Return rows of calls, in the order of the reservations."""
    return list(connection.execute(select(calls).where(condition).order_by(calls.c.reserved_at, calls.c.id)))


def _entry(row: Row[Any], **lists: Any) -> CallEntry:
    values = {name: getattr(row, name) for name in COLUMNS}
    values |= {"caller_masked": mask_number(row.caller), "called_masked": mask_number(row.called)}
    return CallEntry(**values, **lists)


def _whole(connection: Connection, row: Row[Any]) -> CallEntry:
    lists = {}
    for name, table in LISTS.items():
        columns = select(*(table.c[field] for field in KINDS[name]._fields))
        found = connection.execute(columns.where(table.c.call_id == row.id).order_by(table.c.number))
        lists[name] = [KINDS[name](*values) for values in found]
    return _entry(row, **lists)
