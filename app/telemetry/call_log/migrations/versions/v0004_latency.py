"""The columns of mouth-to-ear latency get its name; since when expiry is put off is remembered in a file."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
PERCENTILES = (50, 95, 99)


def upgrade() -> None:
    """Rename the columns, drop the table."""
    for percent in PERCENTILES:
        op.execute(f"ALTER TABLE calls RENAME COLUMN delay_p{percent}_ms TO latency_p{percent}_ms")
    op.drop_table("call_log_expiry")


def downgrade() -> None:
    """Undo both."""
    op.create_table(
        "call_log_expiry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("put_off_at", sa.DateTime(timezone=True)),
    )
    for percent in PERCENTILES:
        op.execute(f"ALTER TABLE calls RENAME COLUMN latency_p{percent}_ms TO delay_p{percent}_ms")
