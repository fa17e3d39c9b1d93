"""The columns of mouth-to-ear latency get its name; since when expiry is put off is remembered in a file."""

from alembic import op

revision = "0004"
down_revision = "0003"
PERCENTILES = (50, 95, 99)


def upgrade() -> None:
    for percent in PERCENTILES:
        op.execute(f"ALTER TABLE calls RENAME COLUMN delay_p{percent}_ms TO latency_p{percent}_ms")
    op.drop_table("call_log_expiry")
