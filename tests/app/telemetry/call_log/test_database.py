from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, func, select

from app.config import read_settings
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.engine import CallLogError, migrations
from app.telemetry.call_log.entry import KILLED, CallEntry, StreamEntry
from app.telemetry.call_log.models import calls, events, metadata, pieces
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.postgres import PostgresServer
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, entry, outbound
from tests.service.test_serve import free_port


def sids(database: Database) -> list[str]:
    return [call.call_sid for call in database.recent(100)]


def stream(number: int = 1, at: datetime = NOON, recording: str = "", ended: bool = True) -> StreamEntry:
    end, reason = (at + timedelta(seconds=9), "caller hung up") if ended else (None, None)
    return StreamEntry(number, at, at, at, end, reason, "", recording, "")


def count(database: Database, table: Table) -> int:
    with database._engine.begin(60.0) as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def test_a_call_comes_back_as_it_went_in(database: Database) -> None:
    database.write(entry())
    assert database.find(ANN) == entry()


def test_a_call_that_was_long_comes_back_whole(database: Database) -> None:
    long = replace(entry(), pieces=[(number / 10, f" {number}") for number in range(1_234)])
    database.write(long)
    assert database.find(ANN) == long


def test_what_is_written_twice_is_there_once(database: Database) -> None:
    for _ in range(2):
        database.write(entry())
    assert database.find(ANN) == entry()
    assert (count(database, calls), count(database, pieces)) == (1, 2)


def test_the_end_of_a_call_completes_what_was_written_at_its_beginning(database: Database) -> None:
    database.write(entry(ended=False))
    assert database.find(ANN) == entry(ended=False)
    database.write(entry())
    assert database.find(ANN) == entry()


def test_a_beginning_that_comes_late_changes_nothing(database: Database) -> None:
    database.write(entry())
    database.write(entry(ended=False))
    assert database.find(ANN) == entry()


def test_moments_are_in_utc_wherever_the_database_is(database: Database) -> None:
    database.write(entry())
    call = database.find(ANN)
    assert call.reserved_at == NOON
    assert call.reserved_at.tzinfo is UTC


def test_the_calls_of_a_killed_run_are_closed_and_those_of_others_are_not(database: Database) -> None:
    database.write(entry(ANN, ended=False))
    database.write(entry(BOB))
    database.write(replace(entry(EVE, ended=False), service="run-2"))
    assert database.close_killed("run-1", NOON + timedelta(seconds=20)) == 1
    ann = database.find(ANN)
    assert (ann.end_reason, ann.ended_by, ann.ended_at) == (KILLED, "service", NOON + timedelta(seconds=20))
    assert ann.events[-1] == (20.0, "ended", KILLED)
    assert database.find(BOB) == entry(BOB)
    assert database.find(EVE).ended_at is None


def test_no_killed_call_ends_before_it_began(database: Database) -> None:
    database.write(entry(ended=False))
    database.close_killed("run-1", NOON - timedelta(seconds=3))
    assert database.find(ANN).ended_at == NOON


def test_calls_that_ended_long_ago_go_with_all_that_was_said(database: Database) -> None:
    database.write(entry(ANN))
    database.write(entry(BOB, at=NOON + timedelta(days=1)))
    database.write(entry(EVE, ended=False))
    assert database.expire(NOON + timedelta(hours=1), NOON) == (1, 0)
    assert set(sids(database)) == {BOB, EVE}
    assert (count(database, pieces), count(database, events)) == (2, 5 + 1)


LATER = NOON + timedelta(days=400)


def test_what_would_delete_most_of_the_log_is_put_off_for_a_day_once(database: Database) -> None:
    for number in range(3):
        database.write(entry(CallSid(f"CA{number}"), at=NOON + timedelta(days=number)))
    before = LATER - timedelta(days=90)
    assert database.expire(before, LATER) == (0, 3)
    assert database.expire(before, LATER + timedelta(hours=23)) == (0, 3)
    assert database.expire(before, LATER + timedelta(hours=24)) == (3, 0)
    assert sids(database) == []


def test_a_clock_that_was_wrong_for_a_while_costs_nothing(database: Database) -> None:
    for number in range(3):
        database.write(entry(CallSid(f"CA{number}"), at=NOON + timedelta(hours=number)))
    assert database.expire(LATER, LATER) == (0, 3)
    assert database.expire(NOON - timedelta(days=90), NOON) == (0, 0)
    assert database.expire(LATER, LATER + timedelta(days=1)) == (0, 3), "it counts anew"


def test_a_put_off_expiry_of_the_future_does_not_hold_up_one_of_today(database: Database) -> None:
    database.write(entry(ANN))
    assert database.expire(LATER, LATER) == (0, 1)
    today = NOON + timedelta(days=91)
    for now, found in ((today, (0, 1)), (today + timedelta(days=1), (1, 0))):
        assert database.expire(now - timedelta(days=90), now) == found


def test_the_streams_of_a_call_come_back(database: Database) -> None:
    kept = replace(entry(), streams=[stream(1), stream(2, NOON + timedelta(seconds=20), "a name")])
    database.write(kept)
    assert database.find(ANN) == kept


def test_a_stream_that_begins_is_written_even_though_an_earlier_one_has_ended(database: Database) -> None:
    ended = replace(entry(), streams=[stream(1)])
    again = replace(entry(ended=False), streams=[stream(1), stream(2, NOON + timedelta(seconds=20), ended=False)])
    database.write(ended)
    database.write(again)
    assert database.find(ANN) == again
    database.write(replace(entry(ended=False), streams=[stream(1, ended=False)]))
    assert database.find(ANN) == again


def test_the_open_streams_of_a_killed_run_are_closed(database: Database) -> None:
    database.write(replace(entry(ended=False), streams=[stream(1), stream(2, ended=False)]))
    assert database.close_killed("run-1", NOON + timedelta(seconds=30)) == 1
    first, second = database.find(ANN).streams
    assert first == stream(1)
    assert (second.ended_at, second.end_reason) == (NOON + timedelta(seconds=30), KILLED)


FIRST = replace(
    entry(),
    service="run-0",
    counters={"frames_out": 2, "dtmf": 1},
    recording="first",
    streams=[stream(1, recording="first")],
)
SECOND = replace(entry(at=NOON + timedelta(seconds=60)), streams=[stream(1, NOON + timedelta(seconds=60))])


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST), (FIRST, SECOND, SECOND, FIRST)])
def test_a_call_that_two_runs_have_seen_is_one_call_in_whatever_order_it_was_written(
    database: Database, order: tuple[CallEntry, ...]
) -> None:
    for one in order:
        database.write(one)
    call = database.find(ANN)
    assert call.pieces == [(2.0, "Hel"), (3.5, "lo."), (62.0, "Hel"), (63.5, "lo.")]
    assert [at_s for at_s, kind, _ in call.events if kind in ("reserved", "ended")] == [0.0, 31.0, 60.0, 91.0]
    assert call.counters == {"frames_out": 4, "frames_dropped": 0, "overruns": 0, "dtmf": 1}
    assert [(one.number, one.reserved_at) for one in call.streams] == [(1, NOON), (2, SECOND.reserved_at)]
    assert (call.reserved_at, call.ended_at, call.recording) == (NOON, SECOND.ended_at, "first")
    assert sids(database) == [ANN]
    assert database.recordings_with("+15550100001") == ({ANN}, {"first"})
    assert database.forget("+15550100001") == (1, 0)


def test_a_list_is_as_long_as_asked_for_even_if_calls_have_several_rows(database: Database) -> None:
    for one in (FIRST, SECOND, entry(BOB, at=NOON + timedelta(seconds=30)), entry(EVE, at=NOON - timedelta(days=1))):
        database.write(one)
    assert [call.call_sid for call in database.recent(2)] == [BOB, ANN]
    assert database.recent(2)[1].counters["frames_out"] == 4


def test_a_call_that_is_on_again_is_not_forgotten_yet(database: Database) -> None:
    database.write(FIRST)
    database.write(replace(SECOND, ended_at=None))
    assert database.forget("+15550100001") == (0, 1)


WAYS = ("15550100001", "whatsapp:+15550100001", "sip:+15550100001@gw.example.com;user=phone", "\u202a+1 555 0100001")


@pytest.mark.parametrize("written", WAYS)
def test_a_number_is_forgotten_in_whatever_way_the_log_has_it(database: Database, written: str) -> None:
    database.write(replace(entry(ANN, caller=written), recording="one", streams=[stream(1, recording="another")]))
    database.write(outbound(entry(BOB, caller=written)))
    database.write(entry(EVE, caller="sip:alice@example.com"))
    assert database.recordings_with("+15550100001") == ({ANN, BOB}, {"another", "one"})
    assert database.forget("+15550100001") == (2, 0)
    assert sids(database) == [EVE]


def test_two_sip_callers_are_told_apart_also_in_rows_of_earlier_versions(database: Database) -> None:
    for call_sid, caller in ((ANN, "sip:alice@example.com"), (BOB, "sip:robert@example.com")):
        database.write(replace(entry(call_sid, caller=caller), caller_masked="….com"))
    assert {call.caller_masked for call in database.recent(9)} == {"sip:…lice@example.com", "sip:…bert@example.com"}


def test_a_person_is_forgotten_whoever_called(database: Database) -> None:
    database.write(entry(ANN))
    database.write(outbound(entry(BOB)))
    database.write(entry(EVE, caller="+15550100009"))
    assert database.forget("+15550100001") == (2, 0)
    assert sids(database) == [EVE]


def test_our_own_number_takes_no_callers_with_it(database: Database) -> None:
    database.write(entry(ANN))
    database.write(outbound(entry(BOB)))
    assert database.forget("+15550100000") == (0, 0)


def test_a_call_that_is_on_is_not_forgotten_yet(database: Database) -> None:
    database.write(entry(ended=False))
    assert database.forget("+15550100001") == (0, 1)
    assert sids(database) == [ANN]


def test_the_newest_calls_come_first(database: Database) -> None:
    for number, call_sid in enumerate((BOB, ANN, EVE)):
        database.write(entry(call_sid, at=NOON + timedelta(hours=number)))
    assert [call.call_sid for call in database.recent(2)] == [EVE, ANN]


@pytest.mark.parametrize("part", [ANN, ANN[:3], ANN[-3:]])
def test_a_call_is_found_by_either_end_of_its_sid(database: Database, part: str) -> None:
    for call_sid in (ANN, BOB):
        database.write(entry(call_sid))
    assert database.find(part).call_sid == ANN


@pytest.mark.parametrize(
    ("part", "why"),
    [("CA", "more than one call: CAa+, CAb+$"), ("zzz", "no call"), ("C_a", "no call"), ("%", "no call")],
)
def test_a_sid_that_is_none_or_many_is_told(database: Database, part: str, why: str) -> None:
    for call_sid in (ANN, BOB):
        database.write(entry(call_sid))
    with pytest.raises(CallNotFound, match=why):
        database.find(part)


def test_a_whole_sid_is_found_even_if_another_one_begins_like_it(database: Database) -> None:
    longer = CallSid(ANN + "9")
    for call_sid in (ANN, longer):
        database.write(entry(call_sid))
    assert database.find(ANN).call_sid == ANN


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    with database._engine.begin(60.0) as connection:
        assert differences(connection) == []


def test_to_migrate_again_changes_nothing(database: Database) -> None:
    database.write(entry())
    database.migrate()
    assert database.find(ANN) == entry()


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "calls.db"
    address = find_address(read_settings(database_url=f"sqlite:///{file}"))
    assert address
    Database(address).migrate()
    assert (file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o077) == (0, 0)


def test_the_recordings_of_a_person_are_those_of_his_calls_that_are_over(database: Database) -> None:
    his = replace(entry(ANN), recording=f"of {ANN}")
    on = replace(entry(BOB, ended=False), recording="still written")
    hers = replace(entry(EVE, caller="+15550100009"), recording="hers")
    for one in (his, on, hers, entry(CallSid("CAnone"))):
        database.write(one)
    assert database.recordings_with("+15550100001") == ({ANN, "CAnone"}, {f"of {ANN}"})


def test_a_log_of_before_recordings_keeps_its_calls(database: Database) -> None:
    database.write(replace(entry(), recording="a name", recording_fault="a fault"))

    def downgrade(connection: Connection) -> None:
        command.downgrade(migrations(connection), "0001")

    with database._engine.begin(60.0, writes=True, checks=False) as connection:
        downgrade(connection)
    database.migrate()
    assert database.find(ANN) == entry()


def test_a_server_that_does_not_answer_is_away_after_a_while(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.telemetry.call_log.database.WRITE_WITHIN_S", 0.2)
    address = find_address(read_settings(database_url=server.new_database(), cache_dir=tmp_path))
    assert address
    database = Database(address)
    database.migrate()
    with psycopg.connect(address.conninfo) as other:
        other.execute("LOCK TABLE calls")
        with pytest.raises(CallLogError):
            database.write(entry())
    database.write(entry())
    assert sids(database) == [ANN]


def test_a_server_is_asked_with_the_parameters_of_its_url(server: PostgresServer, tmp_path: Path) -> None:
    """Managed servers are reached so; two hosts, of which one is not there, a schema, a name, and who may write."""
    url = server.new_database().replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    query = "target_session_attrs=read-write&connect_timeout=9&application_name=calls&sslmode=prefer"
    more = "options=-c%20search_path%3Dpublic&channel_binding=prefer"
    address = find_address(read_settings(database_url=f"{url}?{query}&{more}", cache_dir=tmp_path))
    assert address
    database = Database(address)
    database.migrate()
    database.write(entry())
    assert sids(database) == [ANN]


def test_a_server_that_wants_what_it_has_not_is_told_in_one_line(server: PostgresServer, tmp_path: Path) -> None:
    url = f"{server.new_database()}?sslmode=require&channel_binding=require"
    address = find_address(read_settings(database_url=url, cache_dir=tmp_path))
    assert address
    with pytest.raises(CallLogError, match="SSL") as caught:
        Database(address).check()
    assert "\n" not in str(caught.value)
