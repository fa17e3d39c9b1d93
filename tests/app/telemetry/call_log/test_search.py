"""Search in both databases against a plain search in Python."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import CallEntry, TranscriptWord
from app.telemetry.call_log.search import FTS5, TSVECTOR, fold
from app.telemetry.call_log.transactions import Transactions
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, address_of, entry


def spoken(*turns: str, call_sid: CallSid = ANN, at_s: float = 0.0) -> CallEntry:
    """A call in which both sides take turns, ten seconds apart."""
    rows = [
        TranscriptWord(at_s + 10 * number + place / 2, word, ("caller", "moshi")[number % 2], at_s + 10 * number + 9)
        for number, turn in enumerate(turns)
        for place, word in enumerate(turn.split())
    ]
    return replace(entry(call_sid), transcript=rows)


def texts(database: Database, query: str) -> list[str]:
    return [turn.text for turn in database.search(query, 50)]


def test_a_turn_is_found_with_its_call_time_and_speaker(database: Database) -> None:
    database.write(spoken("I want a refund.", "A refund, of course."))
    database.write(spoken("Good morning", call_sid=BOB))
    found = database.search("REFÚND", 50)
    assert [(one.call_sid, one.speaker, one.at_s) for one in found] == [(ANN, "moshi", 10.0), (ANN, "caller", 0.0)]
    assert (found[0].caller_masked, found[0].reserved_at) == ("…0001", NOON)


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        *(("ref", True), ("want refund", True), ("refund want", True), ("Ünïted", True), ("united", True)),
        *(("refunds", False), ("fund", False), ("want morning", False), ("", False), ("?!", False), ("日本", True)),
    ],
)
def test_all_words_of_a_query_begin_words_of_the_turn(database: Database, query: str, is_found: bool) -> None:
    database.write(spoken("I want a refund, united Ünited 日本語"))
    assert bool(texts(database, query)) is is_found


@pytest.mark.parametrize(
    "query",
    [
        *('"', "'", '"a', "a OR", "NOT a", "a NEAR b", "folded : a", "a*", "^a", "-a", "a AND", "(", "a & | !", "a:*"),
        *("\\", "%", "_", "🙂", "a\0b", "\ud800", "a" * 5_000, "a " * 5_000, "'; DROP TABLE calls; --", "a <-> b"),
    ],
    ids=lambda query: ascii(query[:12]),
)
def test_what_a_user_writes_is_never_query_syntax(database: Database, query: str) -> None:
    database.write(spoken("a b"))
    assert texts(database, query) in ([], ["a b"])
    assert texts(database, "b") == ["a b"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("search")
    database = Database(address_of(f"sqlite:///{folder}/calls.db", folder))
    database.migrate()
    return database


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=1, max_size=6), st.text(max_size=12))
def test_any_query_finds_what_a_plain_search_finds(small: Database, said: list[str], query: str) -> None:
    call = spoken(" ".join(said))
    small.write(call)
    expected = [
        turn.text
        for turn in call.turns
        if fold(query)
        and all(any(word.startswith(one) for word in fold(turn.text).split()) for one in fold(query).split())
    ]
    assert texts(small, query) == expected
    for turn in call.turns:
        assert not fold(turn.text) or turn.text in texts(small, turn.text)


def test_the_calls_written_last_come_first_and_as_many_as_asked_for(database: Database) -> None:
    for call_sid in (ANN, BOB, EVE):
        database.write(spoken("yes", call_sid=call_sid))
    assert [turn.call_sid for turn in database.search("yes", 2)] == [EVE, BOB]


def test_a_call_of_two_runs_has_one_clock(database: Database) -> None:
    database.write(replace(spoken("first"), service="run-0"))
    database.write(replace(spoken("second"), reserved_at=NOON + timedelta(seconds=60)))
    assert [turn.at_s for turn in database.search("second", 9)] == [60.0]


def test_a_call_that_is_written_again_is_found_once(database: Database) -> None:
    for said in ("one", "two"):
        database.write(spoken(said))
    assert (texts(database, "one"), texts(database, "two")) == ([], ["two"])


def test_forgotten_and_old_calls_are_found_no_more(database: Database) -> None:
    for call_sid, caller in ((ANN, "+15550100001"), (BOB, "+15550100002")):
        database.write(replace(spoken("secret", call_sid=call_sid), caller=caller))
    assert database.forget("+15550100001") == (1, 0)
    assert [turn.call_sid for turn in database.search("secret", 9)] == [BOB]
    assert database.delete_old(NOON + timedelta(days=1)) == 1
    assert texts(database, "secret") == []


def test_a_forgotten_word_is_in_no_file_of_the_log(tmp_path: Path) -> None:
    database = Database(address_of(f"sqlite:///{tmp_path}/calls.db", tmp_path))
    database.migrate()
    for number in range(40):
        database.write(spoken("common words", call_sid=CallSid(f"CA{number}")))
    database.write(replace(spoken("xylophone"), caller="+15550100009"))
    assert b"xylophone" in b"".join(file.read_bytes() for file in tmp_path.glob("calls.db*"))
    database.forget("+15550100009")
    assert b"xylophon" not in b"".join(file.read_bytes() for file in tmp_path.glob("calls.db*"))


MANY = """INSERT INTO call_turns (call_id, speaker, at_s, text, folded)
SELECT call_id, speaker, at_s, text, 'word' || number FROM call_turns, generate_series(1, 20000) AS number"""


def test_the_index_is_used(database: Database, address: Address) -> None:
    database.write(spoken("word"))
    is_sqlite = address.file is not None
    query = '"word777"*' if is_sqlite else "'word777':*"
    statement = f"EXPLAIN QUERY PLAN {FTS5}" if is_sqlite else f"EXPLAIN {TSVECTOR}"
    with Transactions(address).begin(60.0, writes=True) as connection:
        if not is_sqlite:  # it reads a small table as a whole
            connection.exec_driver_sql(MANY)
            connection.exec_driver_sql("ANALYZE call_turns")
        plan = str(connection.execute(text(statement), {"query": query, "limit": 9}).all())
    assert ("VIRTUAL TABLE INDEX" if is_sqlite else "Index Scan on call_turns_search") in plan
