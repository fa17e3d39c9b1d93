"""Calls, what Moshi said in them, and what happened."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("call_sid", sa.String, nullable=False, unique=True),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("service", "account_sid", "direction", "caller", "called", "caller_masked", "called_masked")
        ),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("checkpoint", sa.String, nullable=False),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("connected_at", "started_at", "ended_at")),
        sa.Column("end_reason", sa.String),
        sa.Column("end_detail", sa.String, nullable=False),
        sa.Column("ended_by", sa.String),
        sa.Column("first_sound_ms", sa.Double),
        *(sa.Column(f"{what}_{p}_ms", sa.Double) for what in ("delay", "processing") for p in ("p50", "p95", "p99")),
        sa.Column("counters", sa.JSON, nullable=False),
    )
    op.create_index("ix_calls_reserved_at", "calls", ["reserved_at"])
    op.create_index("calls_caller", "calls", ["caller"])
    op.create_index("calls_called", "calls", ["called"])
    op.create_table(
        "transcript_pieces",
        *_key(),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("text", sa.String, nullable=False),
    )
    op.create_table(
        "call_events",
        *_key(),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
    )


def _key() -> tuple[sa.Column[int], sa.Column[int]]:
    return (
        sa.Column("call_id", sa.Integer, sa.ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
    )
