"""The tables of the call log; their columns are the fields of its entries."""

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

from app.telemetry.call_log.entry import COLUMNS, CallEntry, EventEntry, StreamEntry, TranscriptPiece


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a moment of any zone into UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Turn what the database returns, without a zone or in its own, into UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


_TYPES: dict[Any, type[TypeEngine[Any]]] = {
    str: String,
    int: Integer,
    float: Double,
    datetime: UtcTime,
    dict[str, int]: JSON,
}


def _columns(kind: type, *names: str) -> list[Column[Any]]:
    """Return the columns of these fields; one that may be None is nullable."""
    hints = get_type_hints(kind)
    columns = []
    for name in names:
        options = set(get_args(hints[name])) if NoneType in get_args(hints[name]) else {hints[name]}
        (value_type,) = options - {NoneType}
        columns.append(Column(name, _TYPES[value_type], nullable=NoneType in options))
    return columns


def _list(name: str, kind: Any) -> Table:
    """Return the table of what a call has several of, `number` in order."""
    fields = [field for field in kind._fields if field != "number"]
    key = Column("call_id", Integer, ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True)
    return Table(name, metadata, key, Column("number", Integer, primary_key=True), *_columns(kind, *fields))


metadata = MetaData()
calls = Table(
    "calls",
    metadata,
    Column("id", Integer, primary_key=True),
    *_columns(CallEntry, *COLUMNS),
    UniqueConstraint("call_sid", "service", name="calls_sid_service"),
    Index("ix_calls_reserved_at", "reserved_at"),
    Index("calls_caller", "caller"),
    Index("calls_called", "called"),
)
"""A row is what one run of the service has written of one call."""
transcript_pieces = _list("transcript_pieces", TranscriptPiece)
events = _list("call_events", EventEntry)
streams = _list("call_streams", StreamEntry)
LISTS: dict[str, tuple[Table, Any]] = {
    "transcript": (transcript_pieces, TranscriptPiece),
    "events": (events, EventEntry),
    "streams": (streams, StreamEntry),
}
"""The table and the row type of each list of a `CallEntry`."""
