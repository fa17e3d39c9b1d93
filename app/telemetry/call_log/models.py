"""The tables of the call log."""

from datetime import UTC, datetime
from typing import Any

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


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no zone, so that it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a moment of any zone into UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Say that it is UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _texts(*names: str) -> list[Column[str]]:
    return [Column(name, String, nullable=False) for name in names]


def _times(*names: str) -> list[Column[datetime]]:
    return [Column(name, UtcTime) for name in names]


def _of_call() -> list[Column[int]]:
    """Return the key of what a call has several of, in order."""
    call_id = Column("call_id", Integer, ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True)
    return [call_id, Column("number", Integer, primary_key=True)]


metadata = MetaData()

calls = Table(
    "calls",
    metadata,
    Column("id", Integer, primary_key=True),
    *_texts("call_sid", "service", "account_sid", "direction", "caller", "called", "caller_masked", "called_masked"),
    Column("slot", Integer, nullable=False),
    *_texts("checkpoint"),
    Column("reserved_at", UtcTime, nullable=False, index=True),
    *_times("connected_at", "started_at", "ended_at"),
    Column("end_reason", String),
    *_texts("end_detail"),
    Column("ended_by", String),
    Column("first_sound_ms", Double),
    *(Column(f"{what}_p{p}_ms", Double) for what in ("delay", "processing") for p in (50, 95, 99)),
    Column("counters", JSON, nullable=False),
    *_texts("recording", "recording_fault"),
    UniqueConstraint("call_sid", "service", name="calls_sid_service"),
    Index("calls_caller", "caller"),
    Index("calls_called", "called"),
)
"""What one run of the service has kept of one call; the columns are those of `CallEntry`."""

pieces = Table("transcript_pieces", metadata, *_of_call(), Column("at_s", Double, nullable=False), *_texts("text"))
"""What Moshi said, `at_s` seconds after the reservation."""

events = Table("call_events", metadata, *_of_call(), Column("at_s", Double, nullable=False), *_texts("kind", "detail"))
"""What happened in a call, `at_s` seconds after the reservation."""

streams = Table(
    "call_streams",
    metadata,
    *_of_call(),
    Column("reserved_at", UtcTime, nullable=False),
    *_times("connected_at", "started_at", "ended_at"),
    Column("end_reason", String),
    *_texts("end_detail", "recording", "recording_fault"),
)
"""The media streams of a call; the columns are those of `StreamEntry`."""

expiry = Table("call_log_expiry", metadata, Column("id", Integer, primary_key=True), *_times("put_off_at"))
"""At most one row, while the deletion of old calls is put off: since when."""
