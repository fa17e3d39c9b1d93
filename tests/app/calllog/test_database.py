from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, func, select

from app.calllog.address import find_address
from app.calllog.database import CallNotFound, Database, migrations
from app.calllog.entry import COLUMNS, KILLED, CallEntry
from app.calllog.models import Base, Call, CallEvent, Piece
from app.config import read_settings
from app.twilio.events import CallSid
from tests.app.calllog.records import ANN, BOB, EVE, NOON, entry, outbound


async def sids(database: Database) -> list[str]:
    return [call.call_sid for call in await database.recent(100)]


async def as_entry(database: Database, call_sid: CallSid) -> CallEntry:
    """Return what is kept of a call, in the shape in which it came."""
    call = await database.find(call_sid)
    return CallEntry(
        **{name: getattr(call, name) for name in COLUMNS},
        pieces=[(piece.at_s, piece.text) for piece in call.pieces],
        events=[(event.at_s, event.kind, event.detail) for event in call.events],
    )


async def count(database: Database, table: type[Base]) -> int:
    async with database._engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(table)) or 0


async def test_a_call_comes_back_as_it_went_in(database: Database) -> None:
    await database.write(entry())
    assert await as_entry(database, ANN) == entry()


async def test_a_call_that_was_long_comes_back_whole(database: Database) -> None:
    long = replace(entry(), pieces=[(number / 10, f" {number}") for number in range(1_234)])
    await database.write(long)
    assert await as_entry(database, ANN) == long


async def test_what_is_written_twice_is_there_once(database: Database) -> None:
    for _ in range(2):
        await database.write(entry())
    assert await as_entry(database, ANN) == entry()
    assert (await count(database, Call), await count(database, Piece)) == (1, 2)


async def test_the_end_of_a_call_completes_what_was_written_at_its_beginning(database: Database) -> None:
    await database.write(entry(ended=False))
    assert await as_entry(database, ANN) == entry(ended=False)
    await database.write(entry())
    assert await as_entry(database, ANN) == entry()


async def test_a_beginning_that_comes_late_changes_nothing(database: Database) -> None:
    await database.write(entry())
    await database.write(entry(ended=False))
    assert await as_entry(database, ANN) == entry()


async def test_moments_are_in_utc_wherever_the_database_is(database: Database) -> None:
    await database.write(entry())
    call = await database.find(ANN)
    assert call.reserved_at == NOON
    assert call.reserved_at.tzinfo is UTC


async def test_the_calls_of_a_killed_run_are_closed_and_those_of_others_are_not(database: Database) -> None:
    await database.write(entry(ANN, ended=False))
    await database.write(entry(BOB))
    await database.write(replace(entry(EVE, ended=False), service="run-2"))
    assert await database.close_killed("run-1", NOON + timedelta(seconds=20)) == 1
    ann = await as_entry(database, ANN)
    assert (ann.end_reason, ann.ended_by, ann.ended_at) == (KILLED, "service", NOON + timedelta(seconds=20))
    assert ann.events[-1] == (20.0, "ended", KILLED)
    assert await as_entry(database, BOB) == entry(BOB)
    assert (await as_entry(database, EVE)).ended_at is None


async def test_no_killed_call_ends_before_it_began(database: Database) -> None:
    await database.write(entry(ended=False))
    await database.close_killed("run-1", NOON - timedelta(seconds=3))
    assert (await as_entry(database, ANN)).ended_at == NOON


async def test_calls_that_ended_long_ago_go_with_all_that_was_said(database: Database) -> None:
    await database.write(entry(ANN))
    await database.write(entry(BOB, at=NOON + timedelta(days=1)))
    await database.write(entry(EVE, ended=False))
    assert await database.expire(NOON + timedelta(hours=1)) == 1
    assert set(await sids(database)) == {BOB, EVE}
    assert (await count(database, Piece), await count(database, CallEvent)) == (2, 5 + 1)


async def test_a_person_is_forgotten_whoever_called(database: Database) -> None:
    await database.write(entry(ANN))
    await database.write(outbound(entry(BOB)))
    await database.write(entry(EVE, caller="+15550100009"))
    assert await database.forget("+15550100001") == (2, 0)
    assert await sids(database) == [EVE]


async def test_our_own_number_takes_no_callers_with_it(database: Database) -> None:
    await database.write(entry(ANN))
    await database.write(outbound(entry(BOB)))
    assert await database.forget("+15550100000") == (0, 0)


async def test_a_call_that_is_on_is_not_forgotten_yet(database: Database) -> None:
    await database.write(entry(ended=False))
    assert await database.forget("+15550100001") == (0, 1)
    assert await sids(database) == [ANN]


async def test_the_newest_calls_come_first(database: Database) -> None:
    for number, call_sid in enumerate((BOB, ANN, EVE)):
        await database.write(entry(call_sid, at=NOON + timedelta(hours=number)))
    assert [call.call_sid for call in await database.recent(2)] == [EVE, ANN]


@pytest.mark.parametrize("part", [ANN, ANN[:3], ANN[-3:]])
async def test_a_call_is_found_by_either_end_of_its_sid(database: Database, part: str) -> None:
    for call_sid in (ANN, BOB):
        await database.write(entry(call_sid))
    assert (await database.find(part)).call_sid == ANN


@pytest.mark.parametrize(
    ("part", "why"),
    [("CA", "more than one call: CAa+, CAb+$"), ("zzz", "no call"), ("C_a", "no call"), ("%", "no call")],
)
async def test_a_sid_that_is_none_or_many_is_told(database: Database, part: str, why: str) -> None:
    for call_sid in (ANN, BOB):
        await database.write(entry(call_sid))
    with pytest.raises(CallNotFound, match=why):
        await database.find(part)


async def test_a_whole_sid_is_found_even_if_another_one_begins_like_it(database: Database) -> None:
    longer = CallSid(ANN + "9")
    for call_sid in (ANN, longer):
        await database.write(entry(call_sid))
    assert (await database.find(ANN)).call_sid == ANN


async def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), Base.metadata)

    async with database._engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_to_migrate_again_changes_nothing(database: Database) -> None:
    await database.write(entry())
    await database.migrate()
    assert await as_entry(database, ANN) == entry()


async def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "calls.db"
    address = find_address(read_settings(database_url=f"sqlite:///{file}"))
    assert address
    await Database(address).migrate()
    assert (file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o077) == (0, 0)


async def test_the_recordings_of_a_person_are_those_of_his_calls_that_are_over(database: Database) -> None:
    his = replace(entry(ANN), recording=f"of {ANN}")
    on = replace(entry(BOB, ended=False), recording="still written")
    hers = replace(entry(EVE, caller="+15550100009"), recording="hers")
    for one in (his, on, hers, entry(CallSid("CAnone"))):
        await database.write(one)
    assert await database.recordings_with("+15550100001") == [f"of {ANN}"]


async def test_a_log_of_before_recordings_keeps_its_calls(database: Database) -> None:
    await database.write(replace(entry(), recording="a name", recording_fault="a fault"))

    def downgrade(connection: Connection) -> None:
        command.downgrade(migrations(connection), "0001")

    async with database._engine.begin() as connection:
        await connection.run_sync(downgrade)
    await database.migrate()
    assert await as_entry(database, ANN) == entry()
