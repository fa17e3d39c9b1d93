"""The tables of the call log."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, Index, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

OUTBOUND = "outbound"
"""How the direction of a call that we placed begins: outbound-api, outbound-dial."""


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


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: UtcTime, float: Double, str: String, dict[str, int]: JSON}  # noqa: RUF012 - SQLAlchemy's own way


class Call(Base):
    """One call; the columns are those of `CallEntry`."""

    __tablename__ = "calls"
    __table_args__ = (Index("calls_caller", "caller"), Index("calls_called", "called"))

    id: Mapped[int] = mapped_column(primary_key=True)
    call_sid: Mapped[str] = mapped_column(unique=True)
    service: Mapped[str]
    account_sid: Mapped[str]
    direction: Mapped[str]
    caller: Mapped[str]
    called: Mapped[str]
    caller_masked: Mapped[str]
    called_masked: Mapped[str]
    slot: Mapped[int]
    checkpoint: Mapped[str]
    reserved_at: Mapped[datetime] = mapped_column(index=True)
    connected_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]
    end_detail: Mapped[str]
    ended_by: Mapped[str | None]
    first_sound_ms: Mapped[float | None]
    delay_p50_ms: Mapped[float | None]
    delay_p95_ms: Mapped[float | None]
    delay_p99_ms: Mapped[float | None]
    processing_p50_ms: Mapped[float | None]
    processing_p95_ms: Mapped[float | None]
    processing_p99_ms: Mapped[float | None]
    counters: Mapped[dict[str, int]]
    recording: Mapped[str]
    recording_fault: Mapped[str]

    pieces: Mapped[list["Piece"]] = relationship(order_by="Piece.number", viewonly=True)
    events: Mapped[list["CallEvent"]] = relationship(order_by="CallEvent.number", viewonly=True)

    @property
    def is_outbound(self) -> bool:
        """Whether we called."""
        return self.direction.startswith(OUTBOUND)


class Piece(Base):
    """One piece of what Moshi said, `at_s` seconds after the reservation."""

    __tablename__ = "transcript_pieces"

    call_id: Mapped[int] = mapped_column(ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at_s: Mapped[float]
    text: Mapped[str]


class CallEvent(Base):
    """Something that happened in a call, `at_s` seconds after the reservation."""

    __tablename__ = "call_events"

    call_id: Mapped[int] = mapped_column(ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at_s: Mapped[float]
    kind: Mapped[str]
    detail: Mapped[str]
