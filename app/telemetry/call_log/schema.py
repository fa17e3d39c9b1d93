"""The tables of the call log; their columns are the fields of its entries."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from app.telemetry.call_log.entry import COLUMNS, KINDS, CallEntry


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


_TYPES: dict[Any, type[TypeEngine[Any]]] = {
    str: String,
    int: Integer,
    float: Double,
    datetime: UtcTime,
    dict[str, int]: JSON,
}


def _columns(kind: type, names: Sequence[str]) -> Iterator[Column[Any]]:
    """Yield the columns of these fields; one that may be None is nullable."""
    for name, hint in get_type_hints(kind).items():
        if name in names:
            may_be_none = NoneType in get_args(hint)
            yield Column(name, _TYPES[get_args(hint)[0] if may_be_none else hint], nullable=may_be_none)


def _list(table: str, kind: Any) -> Table:
    """Return the table of what a call has several of, `number` in order."""
    fields = [field for field in kind._fields if field != "number"]
    key = Column("call_id", Integer, ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True)
    return Table(table, metadata, key, Column("number", Integer, primary_key=True), *_columns(kind, fields))


metadata = MetaData()
calls = Table(
    "calls",
    metadata,
    Column("id", Integer, primary_key=True),
    *_columns(CallEntry, COLUMNS),
    UniqueConstraint("call_sid", "service", name="calls_sid_service"),
    Index("ix_calls_reserved_at", "reserved_at"),
    Index("calls_caller", "caller"),
    Index("calls_called", "called"),
)
"""A row is what one run of the service has written of one call."""
forgotten_calls = Table(
    "forgotten_calls",
    metadata,
    Column("call_sid", String, primary_key=True),
    Column("forgotten_at", UtcTime, primary_key=True),
)
"""The calls that `forget` has deleted: what a service or a spool still has of them is not written any more."""
_NAMES = {"transcript": "transcript_pieces", "events": "call_events", "streams": "call_streams"}
LISTS = {name: _list(_NAMES[name], kind) for name, kind in KINDS.items()}
"""The table of each list of a `CallEntry`."""
turns = Table(
    "call_turns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("call_id", Integer, ForeignKey("calls.id", ondelete="CASCADE"), nullable=False, index=True),
    *(Column(name, String, nullable=False) for name in ("speaker", "text", "folded")),
    Column("at_s", Double, nullable=False),
)
"""What was said between pauses, made of the words; `call_turns_search` of each database is its index (`search`)."""
