"""The words of both sides with their times, and a full-text index over their turns."""

import sqlalchemy as sa
from alembic import op

from app.telemetry.call_log.entry import TranscriptWord, turns_of_rows
from app.telemetry.call_log.search import row_of

revision = "0006"
down_revision = "0005"

TURNS = sa.table("call_turns", *map(sa.column, ("call_id", "speaker", "at_s", "text", "folded")))
PIECES = sa.table("transcript_pieces", *map(sa.column, ("call_id", "number", "at_s", "text")))
SQLITE = (
    "CREATE VIRTUAL TABLE call_turns_search USING fts5"
    "(folded, content = 'call_turns', content_rowid = 'id', tokenize = 'ascii')",
    "CREATE TRIGGER call_turns_added AFTER INSERT ON call_turns BEGIN "
    "INSERT INTO call_turns_search (rowid, folded) VALUES (new.id, new.folded); END",
    "CREATE TRIGGER call_turns_deleted AFTER DELETE ON call_turns BEGIN "
    "INSERT INTO call_turns_search (call_turns_search, rowid, folded) VALUES ('delete', old.id, old.folded); END",
)
"""Letters outside ASCII are letters to this tokenizer: what it gets is folded already."""
POSTGRESQL = (
    "CREATE INDEX call_turns_search ON call_turns USING gin (array_to_tsvector(string_to_array(folded, ' ')))",
)


def upgrade() -> None:
    op.add_column("transcript_pieces", sa.Column("speaker", sa.String, nullable=False, server_default="moshi"))
    op.add_column("transcript_pieces", sa.Column("stop_s", sa.Double))
    op.create_table(
        "call_turns",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("call_id", sa.Integer, sa.ForeignKey("calls.id", ondelete="CASCADE"), nullable=False),
        sa.Column("speaker", sa.String, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("folded", sa.String, nullable=False),
    )
    op.create_index("ix_call_turns_call_id", "call_turns", ["call_id"])
    for statement in {"sqlite": SQLITE, "postgresql": POSTGRESQL}[op.get_context().dialect.name]:
        op.execute(statement)
    _index_calls(op.get_bind())


def _index_calls(connection: sa.Connection) -> None:
    """Index what was said in the calls that are there."""
    for call_id in connection.scalars(sa.select(PIECES.c.call_id).distinct().order_by(PIECES.c.call_id)).all():
        pieces = sa.select(PIECES.c.at_s, PIECES.c.text).where(PIECES.c.call_id == call_id).order_by(PIECES.c.number)
        turns = turns_of_rows([TranscriptWord(at_s, text) for at_s, text in connection.execute(pieces)])
        if rows := [{"call_id": call_id, **row_of(turn)} for turn in turns]:
            connection.execute(sa.insert(TURNS), rows)
