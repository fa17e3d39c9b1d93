"""SQLite's full-text index knows the beginnings of words: without, a short one is looked up word by word."""

from alembic import op

revision = "0007"
down_revision = "0006"

SQLITE = (
    "DROP TABLE call_turns_search",
    "CREATE VIRTUAL TABLE call_turns_search USING fts5"
    "(folded, content = 'call_turns', content_rowid = 'id', tokenize = 'ascii', prefix = '1 2 3')",
    "INSERT INTO call_turns_search (call_turns_search) VALUES ('rebuild')",
)
"""The triggers of 0006 stay."""


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for statement in SQLITE:
            op.execute(statement)
