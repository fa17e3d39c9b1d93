import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, func, insert, select

from app.cli.service_process import free_port
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.entry import COLUMNS, KILLED, CallEntry, TranscriptWord
from app.telemetry.call_log.schema import LISTS, calls, forgotten_calls, metadata, turns
from app.telemetry.call_log.search import row_of
from app.telemetry.call_log.transactions import CallLogError
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.postgres import PostgresServer
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, address_of, entry, outbound, stream
from tests.processes.pipeline import PATIENCE_S

LATER = NOON + timedelta(seconds=60)


def sids(database: Database) -> list[str]:
    return [call.call_sid for call in database.recent(100)]


def rows(address: Address) -> int:
    """Return how many rows the lists of all calls have."""
    with Database(address).begin(60.0) as connection:
        return sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in LISTS.values())


def test_a_call_comes_back_as_it_was_written(database: Database) -> None:
    long = [TranscriptWord(number / 10, f"w{number}", "moshi", number / 10 + 0.08) for number in range(1_234)]
    call = replace(entry(), persona="ada", transcript=long, streams=[stream(1), stream(2, LATER, "a name")])
    database.write(call)
    assert database.find(ANN) == call
    assert database.find(ANN).reserved_at.tzinfo is UTC


def test_a_call_that_is_written_again_replaces_what_was_there(database: Database, address: Address) -> None:
    database.write(entry(ended=False))
    assert database.find(ANN) == entry(ended=False)
    for _ in range(2):
        database.write(replace(entry(), streams=[stream(1)]))
    assert database.find(ANN) == replace(entry(), streams=[stream(1)])
    assert rows(address) == 2 + 5 + 1


def test_the_calls_of_a_killed_run_are_closed_and_those_of_others_are_not(database: Database) -> None:
    on = replace(entry(ANN, ended=False), streams=[stream(1), stream(2, ended=False)])
    for call in (on, entry(BOB), replace(entry(EVE, ended=False), service="run-2")):
        database.write(call)
    alive_at = NOON + timedelta(seconds=20)
    assert database.close_killed("run-1", alive_at) == 1
    assert database.find(ANN) == on.killed(alive_at)
    assert database.find(ANN).end_reason == KILLED
    assert database.find(BOB) == entry(BOB)
    assert database.find(EVE).ended_at is None


def test_old_calls_are_counted_and_deleted_with_all_that_belongs_to_them(database: Database, address: Address) -> None:
    left_open = entry(CallSid("CAgone"), ended=False, at=NOON - timedelta(days=1))
    """Of a machine that has died for good: nobody ends it."""
    for call in (entry(ANN), entry(BOB, at=NOON + timedelta(days=1)), entry(EVE, ended=False), left_open):
        database.write(call)
    before = NOON + timedelta(hours=1)
    assert database.count_old(before) == (2, 4)
    assert database.delete_old(before) == 2
    assert set(sids(database)) == {BOB, EVE}
    assert rows(address) == 2 + 5 + 1


FIRST = replace(entry(), service="run-0", recording="first", streams=[stream(1, recording="first")])
SECOND = replace(entry(at=LATER), streams=[stream(1, LATER)])


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST), (FIRST, SECOND, SECOND, FIRST)])
def test_a_call_of_two_runs_is_one_call_in_whatever_order_it_was_written(
    database: Database, order: tuple[CallEntry, ...]
) -> None:
    for one in order:
        database.write(one)
    call = database.find(ANN)
    assert [one.number for one in call.streams] == [1, 2]
    assert (call.reserved_at, call.ended_at, call.recording) == (NOON, SECOND.ended_at, "first")
    assert sids(database) == [ANN]
    assert database.recordings_with("+15550100001") == ({ANN}, {"first"})
    database.write(replace(SECOND, ended_at=None, reserved_at=datetime.now(UTC)))
    assert database.forget("+15550100001") == (0, 1), "it is on again"
    database.write(SECOND)
    assert database.forget("+15550100001") == (1, 0)


def test_the_newest_calls_come_first_and_as_many_as_asked_for(database: Database) -> None:
    for one in (FIRST, SECOND, entry(BOB, at=NOON + timedelta(seconds=30)), entry(EVE, at=NOON - timedelta(days=1))):
        database.write(one)
    assert [call.call_sid for call in database.recent(2)] == [BOB, ANN]
    assert database.recent(2)[1].counters["frames_out"] == 4


@pytest.mark.slow
def test_more_calls_are_listed_than_a_statement_has_parameters(server: PostgresServer, tmp_path: Path) -> None:
    database = Database(address_of(server.new_database(), tmp_path))
    database.migrate()
    database.write(entry(ANN))
    with database.begin(60.0, writes=True) as connection:
        for statement in (
            "CREATE TEMPORARY TABLE copies AS SELECT calls.*, copy FROM calls, generate_series(1, 70000) copy",
            "UPDATE copies SET id = id + copy, call_sid = 'CA' || copy",
            "ALTER TABLE copies DROP copy",
            "INSERT INTO calls SELECT * FROM copies",
        ):
            connection.exec_driver_sql(statement)
    assert len(database.recent(100_000)) == 70_001


def test_a_number_is_forgotten_in_whatever_way_it_was_written(database: Database) -> None:
    written = "sip:+15550100001@gw.example.com;user=phone"
    database.write(replace(entry(ANN, caller=written), recording="one", streams=[stream(1, recording="another")]))
    database.write(outbound(entry(BOB, caller=written)))
    database.write(replace(entry(EVE, caller="sip:alice@example.com"), recording="hers"))
    on = replace(entry(CallSid("CAon"), caller=written, ended=False), recording="still written")
    database.write(replace(on, reserved_at=datetime.now(UTC)))
    database.write(replace(on, call_sid="CAgone", recording="of a machine that has died for good"))
    over = {ANN, BOB, "CAgone"}
    assert database.recordings_with("+15550100001") == (over, {"another", "one", "of a machine that has died for good"})
    assert database.forget("+15550100000") == (0, 0), "our own number is no caller's"
    assert database.forget("+15550100001") == (3, 1)
    assert set(sids(database)) == {EVE, "CAon"}


def test_what_is_written_of_a_forgotten_call_afterwards_is_dropped(database: Database, address: Address) -> None:
    for one in (entry(ANN), entry(BOB, caller="+15550100009")):
        database.write(one)
    assert database.forgotten() == set()
    database.forget("+15550100001")
    again = replace(entry(ANN), ended_at=None, streams=[stream(1), stream(2, LATER, ended=False)])
    for one in (entry(ANN), replace(entry(ANN), service="run-2"), again, entry(BOB, caller="+15550100009")):
        database.write(one)
    assert (sids(database), database.forgotten()) == ([BOB], {ANN})
    assert database.search("hello", 9)[0].call_sid == BOB
    assert rows(address) == 2 + 5


def test_which_calls_were_forgotten_long_ago_is_forgotten_too(database: Database) -> None:
    days = {"CAold": 31, "CAnew": 29}
    ago = [{"call_sid": sid, "forgotten_at": datetime.now(UTC) - timedelta(days=days[sid])} for sid in days]
    with database.begin(60.0, writes=True) as connection:
        connection.execute(insert(forgotten_calls), ago)
    database.write(entry(ANN))
    database.forget("+15550100001")
    assert database.forgotten() == {"CAnew", ANN}


@pytest.mark.slow
async def test_a_record_that_is_being_replaced_does_not_outlive_its_deletion(
    server: PostgresServer, tmp_path: Path
) -> None:
    """A service has deleted the row of a call, and inserts it anew, when somebody has the call forgotten."""
    address = address_of(server.new_database(), tmp_path)
    database = Database(address)
    database.migrate()
    database.write(entry(ANN))
    with psycopg.connect(address.conninfo) as writer, psycopg.connect(address.conninfo, autocommit=True) as watcher:
        writer.execute("CREATE TEMPORARY TABLE row ON COMMIT DROP AS SELECT * FROM calls")
        writer.execute("DELETE FROM calls")
        writer.execute("UPDATE row SET id = id + 1")
        writer.execute("INSERT INTO calls SELECT * FROM row")
        forgetting = asyncio.create_task(asyncio.to_thread(database.forget, "+15550100001"))
        async with asyncio.timeout(PATIENCE_S):
            while not watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110 - no sign
                await asyncio.sleep(0.01)
        writer.commit()
    assert await forgetting == (1, 0)
    assert sids(database) == []


def test_two_sip_callers_are_told_apart_also_in_rows_of_earlier_versions(database: Database) -> None:
    for call_sid, caller in ((ANN, "sip:alice@example.com"), (BOB, "sip:robert@example.com")):
        database.write(replace(entry(call_sid, caller=caller), caller_masked="….com"))
    assert {call.caller_masked for call in database.recent(9)} == {"sip:…lice@example.com", "sip:…bert@example.com"}


def test_a_call_is_found_by_its_sid_or_either_end_of_it(database: Database) -> None:
    longer = CallSid(ANN + "9")
    for call_sid in (ANN, longer, BOB):
        database.write(entry(call_sid))
    for part, found in ((ANN, ANN), (longer, longer), (BOB[:3], BOB), (BOB[-3:], BOB)):
        assert database.find(part).call_sid == found
    for part, why in (("CAa", "more than one call: CAa+, CAa+9$"), ("zz", "no call"), ("C_a", "no call"), ("%", "no")):
        with pytest.raises(CallNotFound, match=why):
            database.find(part)


def no_index(name: str | None, kind: str, parents: object) -> bool:
    return not (name or "").startswith("call_turns_search")


def test_the_migrations_make_the_tables_of_the_schema(database: Database, address: Address) -> None:
    with Database(address).begin(60.0) as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"include_name": no_index}), metadata) == []


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_a_log_of_an_earlier_version_keeps_its_calls(address: Address, revision: str) -> None:
    said = [TranscriptWord(2.0, " Hel"), TranscriptWord(2.08, "lo.")]
    call = replace(entry(), latency_p50_ms=90.0, transcript=said)
    database, tables = Database(address), MetaData()
    database.migrate(revision)
    with database.begin(60.0, writes=True) as connection:
        tables.reflect(connection)
        former = tables.tables["calls"]
        row = {c.name: getattr(call, c.name.replace("delay_", "latency_")) for c in former.c if c.name != "id"}
        connection.execute(insert(former), row | {"id": 1})
        for name in ("transcript_pieces", "call_events"):
            rows = getattr(call, name.removesuffix("_pieces").removeprefix("call_"))
            numbered = [{"call_id": 1, "number": number, **one._asdict()} for number, one in enumerate(rows)]
            columns = tables.tables[name].c.keys()
            connection.execute(insert(tables.tables[name]), [{name: one[name] for name in columns} for one in numbered])
    for _ in range(2):
        database.migrate()
        assert database.find(ANN) == call
        assert [turn.text for turn in database.search("hello", 9)] == ["Hello."]


def test_the_index_of_a_log_of_0006_is_made_anew(address: Address) -> None:
    database = Database(address)
    database.migrate("0006")
    call = entry()
    with database.begin(60.0, writes=True) as connection:
        connection.execute(insert(calls).values({"id": 1, **{name: getattr(call, name) for name in COLUMNS}}))
        connection.execute(insert(turns), [{"call_id": 1, **row_of(turn)} for turn in call.turns])
    database.migrate()
    assert [turn.text for turn in database.search("h", 9)] == ["Hi", "Hello."]
    if address.file:
        with database.begin(60.0) as connection:
            made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'call_turns_search'").scalar()
        assert "prefix" in str(made)


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "calls.db"
    Database(address_of(f"sqlite:///{file}", tmp_path)).migrate()
    assert (file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o077) == (0, 0)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_away_after_a_while(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(server.new_database(), tmp_path)
    database = Database(address)
    database.migrate()
    with psycopg.connect(address.conninfo) as other:
        other.execute("LOCK TABLE calls")
        monkeypatch.setattr("app.telemetry.call_log.database.WRITE_LIMIT_S", 0.2)
        with pytest.raises(CallLogError):
            database.write(entry())
    monkeypatch.undo()
    database.write(entry())
    assert sids(database) == [ANN]


@pytest.mark.slow
def test_a_server_is_reached_with_the_parameters_of_its_url(server: PostgresServer, tmp_path: Path) -> None:
    """As managed servers are: two hosts, of which one is not there, a schema, a name, and who may write."""
    url = server.new_database().replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    query = "target_session_attrs=read-write&connect_timeout=9&application_name=calls&sslmode=prefer"
    more = "options=-c%20search_path%3Dpublic&channel_binding=prefer"
    database = Database(address_of(f"{url}?{query}&{more}", tmp_path))
    database.migrate()
    database.write(entry())
    assert sids(database) == [ANN]
    with pytest.raises(CallLogError, match="SSL") as caught:
        Database(address_of(f"{url}?sslmode=require&channel_binding=require", tmp_path)).migrate()
    assert "\n" not in str(caught.value), "a fault is one line"
