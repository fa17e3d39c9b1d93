"""Who spoke in a call."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("calls", sa.Column("persona", sa.String, nullable=False, server_default=""))
