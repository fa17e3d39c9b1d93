"""The streams of a call, one row of `calls` for each run of the service that has seen a call, and expiry put off."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    old = {"sqlite": "uq_calls_call_sid", "postgresql": "calls_call_sid_key"}[op.get_context().dialect.name]
    with op.batch_alter_table("calls", naming_convention={"uq": "uq_%(table_name)s_%(column_0_name)s"}) as calls:
        calls.drop_constraint(old, type_="unique")
        calls.create_unique_constraint("calls_sid_service", ["call_sid", "service"])
    op.create_table(
        "call_streams",
        sa.Column("call_id", sa.Integer, sa.ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("connected_at", "started_at", "ended_at")),
        sa.Column("end_reason", sa.String),
        *(sa.Column(name, sa.String, nullable=False) for name in ("end_detail", "recording", "recording_fault")),
    )
    op.create_table(
        "call_log_expiry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("put_off_at", sa.DateTime(timezone=True)),
    )
