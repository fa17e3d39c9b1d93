"""The calls that were deleted by `forget`, so that no service writes them again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "forgotten_calls",
        sa.Column("call_sid", sa.String, primary_key=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), primary_key=True),
    )
