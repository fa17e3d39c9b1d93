"""Full-text search over the turns of all calls, alike in SQLite (FTS5) and PostgreSQL (tsvector).

Turns and queries are folded here: letters and digits alone, no case, no accents. So what a user writes is never a
database's query syntax. A turn is found if each word of the query begins one of its words.
"""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, alias, func, select, text

from app.calls.transcript import Side, Turn
from app.telemetry.call_log.schema import calls, turns
from app.twilio.parties import mask_number

MOST_LETTERS = 64
"""Of a word that are compared."""
MOST_WORDS = 16
"""Of a query; further ones are left out."""
FTS5 = "SELECT rowid AS id FROM call_turns_search WHERE call_turns_search MATCH :query ORDER BY rowid DESC LIMIT :limit"
TSVECTOR = (
    "SELECT id FROM call_turns WHERE array_to_tsvector(string_to_array(folded, ' ')) @@ CAST(:query AS tsquery) "
    "ORDER BY id + 0 DESC LIMIT :limit"
)
"""The expression is that of the index (migration 0006).

PostgreSQL estimates that every beginning is in one of 200 turns, and would go through all turns in the order of `id`.
"""
TSVECTOR_LATE = (
    "SELECT id FROM call_turns WHERE array_to_tsvector(string_to_array(folded, ' ')) @@ CAST(:query AS tsquery) "
    "AND id > (SELECT max(id) FROM call_turns) - 5000 ORDER BY id DESC LIMIT :limit"
)
"""Goes through the last turns without the index: what is said all the time is found there."""
OPTIMIZE = text("INSERT INTO call_turns_search (call_turns_search) VALUES ('optimize')")


class FoundTurn(NamedTuple):
    """A turn; `at_s` since the slot of the call was reserved."""

    call_sid: str
    reserved_at: datetime
    direction: str
    caller_masked: str
    called_masked: str
    speaker: Side
    at_s: float
    text: str

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "reserved_at": self.reserved_at.isoformat()}


def fold(spoken: str) -> str:
    """Return the words of a text, with one space between them."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", spoken).casefold())
    kept = (
        letter if letter.isalnum() else " " for letter in letters if not unicodedata.category(letter).startswith("M")
    )
    return " ".join(word[:MOST_LETTERS] for word in "".join(kept).split())


def row_of(turn: Turn) -> dict[str, Any]:
    return {"speaker": turn.speaker, "at_s": turn.start_s, "text": turn.text, "folded": fold(turn.text)}


def find_turns(connection: Connection, query: str, limit: int) -> list[FoundTurn]:
    """Return the turns with all words of the query, those of the call written last first."""
    words = fold(query).split()[:MOST_WORDS]
    if not words:
        return []
    is_sqlite = connection.dialect.name == "sqlite"
    written = " AND ".join(f'"{word}"*' for word in words) if is_sqlite else " & ".join(f"'{word}':*" for word in words)
    found: Sequence[Row[Any]] = ()
    for ids in (FTS5,) if is_sqlite else (TSVECTOR_LATE, TSVECTOR):
        if len(found) < limit:
            found = connection.execute(_statement(ids, limit), {"query": written, "limit": limit}).all()
    return [
        FoundTurn(
            row.call_sid,
            row.first_at,
            row.direction,
            mask_number(row.caller),
            mask_number(row.called),
            Side(row.speaker),
            round(row.at_s + (row.reserved_at - row.first_at).total_seconds(), 4),
            row.text,
        )
        for row in found
    ]


def _statement(found: str, limit: int) -> Select[Any]:
    ids = text(found).columns(id=turns.c.id.type).cte("found")
    runs = alias(calls)
    first_at = select(func.min(runs.c.reserved_at)).where(runs.c.call_sid == calls.c.call_sid).scalar_subquery()
    columns = (calls.c.call_sid, calls.c.reserved_at, calls.c.direction, calls.c.caller, calls.c.called)
    of_turn = (turns.c.speaker, turns.c.at_s, turns.c.text)
    joined = turns.join(calls, calls.c.id == turns.c.call_id).join(ids, ids.c.id == turns.c.id)
    chosen = select(*columns, *of_turn, first_at.label("first_at")).select_from(joined)
    return chosen.order_by(turns.c.id.desc()).limit(limit)
