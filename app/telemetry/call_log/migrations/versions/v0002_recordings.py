"""What is recorded of a call."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
COLUMNS = ("recording", "recording_fault")


def upgrade() -> None:
    """Add the columns; of the calls so far there are no recordings."""
    for name in COLUMNS:
        op.add_column("calls", sa.Column(name, sa.String, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop them."""
    for name in COLUMNS:
        op.drop_column("calls", name)
