"""Where a record goes when the database, the disk or both take nothing; first without the thread, then with it."""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.calls.transcript import Side, Word
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import KILLED
from app.telemetry.call_log.transactions import CallLogError
from app.telemetry.call_log.writer import MAX_QUEUED, READ_FORGOTTEN_EVERY_S, RETRY_S, CallLogWriter
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.postgres import PostgresServer
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, address_of, call_record, entry
from tests.app.telemetry.call_log.test_spool import killed
from tests.waiting import until
from workers.messages import Slot

HUNG_UP = EndReason.CALLER_HUNG_UP.value


def file_address(folder: Path) -> Address:
    return address_of(f"sqlite:///{folder}/calls.db", folder)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    """A SQLite file with tables, whose lock nobody waits for."""
    monkeypatch.setattr("app.telemetry.call_log.transactions.SQLITE_LOCK_S", 0.0)
    address = file_address(tmp_path)
    Database(address).migrate()
    return address


def opened(address: Address, days: int = 0) -> CallLogWriter:
    """A writer without its thread."""
    writer = CallLogWriter(address, "AC1", "synthetic:script", days)
    writer.open()
    return writer


def add(writer: CallLogWriter, *call_sids: CallSid, ended: bool = True) -> None:
    for call_sid in call_sids:
        caller = "+15550100009" if call_sid == BOB else "+15550100001"
        writer.add(call_record(call_sid, caller, ended=ended), Slot(0))


def stored(address: Address) -> dict[str, str | None]:
    """Return the end of every call in the database, by SID."""
    return {call.call_sid: call.end_reason for call in Database(address).recent(10_000)}


def on_disk(address: Address) -> list[str]:
    """Return the lines of all spools."""
    return [line for path in address.spool_folder.glob("*.spool") for line in path.read_text().splitlines()]


@contextlib.contextmanager
def locked(address: Address) -> Iterator[None]:
    """Hold the database's file, so that nobody else can write it."""
    assert address.file
    with contextlib.closing(sqlite3.connect(address.file)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.rollback()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no records."""
    monkeypatch.setattr("app.telemetry.call_log.spool.MAX_BYTES", 0)


def errors(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in log.records if one.levelno == logging.ERROR]


def lost_calls(log: pytest.LogCaptureFixture) -> dict[str, str]:
    """Return the message about each lost record, by SID."""
    return {one.call_sid: one.getMessage() for one in errors(log) if hasattr(one, "call_sid")}


def test_what_a_locked_file_does_not_take_waits_on_the_disk_until_it_is_written(file: Address) -> None:
    writer = opened(file)
    with locked(file):
        for call_sid in (ANN, BOB):
            add(writer, call_sid)
            writer.deliver(0.0, NOON)
        assert (writer.is_away, writer.waiting, len(on_disk(file))) == (True, 2, 2)
    writer.deliver(RETRY_S / 2, NOON)
    assert stored(file) == {}, "it is not asked again before the pause is over"
    add(writer, EVE)
    writer.deliver(RETRY_S, NOON)
    assert stored(file) == dict.fromkeys((ANN, BOB, EVE), HUNG_UP)
    assert (writer.is_away, writer.waiting, on_disk(file)) == (False, 0, [])
    writer.finish(1.0, NOON)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("has_folder", [True, False], ids=["full", "folder gone"])
def test_a_disk_that_takes_nothing_loses_nothing_while_the_database_takes_it(file: Address, has_folder: bool) -> None:
    writer = opened(file)
    if not has_folder:
        shutil.rmtree(file.spool_folder)
        file.spool_folder.touch()
    for call_sid, deliver in ((ANN, writer.deliver), (BOB, writer.finish)):
        add(writer, call_sid)
        deliver(0.0, NOON)
    assert stored(file) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert writer.lost == 0


@pytest.mark.usefixtures("full")
def test_what_neither_takes_waits_in_memory_and_that_is_logged_once(
    file: Address, caplog: pytest.LogCaptureFixture
) -> None:
    writer = opened(file)
    with locked(file):
        for call_sid in (ANN, BOB):
            add(writer, call_sid)
            writer.deliver(0.0, NOON)
        assert (writer.waiting, on_disk(file), len(errors(caplog))) == (2, [], 1)
    writer.finish(RETRY_S, NOON)
    assert (stored(file), writer.lost) == ({ANN: HUNG_UP, BOB: HUNG_UP}, 0)


def test_memory_is_bounded_and_what_is_lost_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = CallLogWriter(file_address(tmp_path), "AC1", "loopback")
    add(writer, *(CallSid(f"CA{number}") for number in range(MAX_QUEUED + 1)))
    assert (writer.lost, writer.waiting) == (1, MAX_QUEUED)
    assert HUNG_UP in lost_calls(caplog)[f"CA{MAX_QUEUED}"]


@pytest.mark.usefixtures("full")
def test_what_is_lost_at_the_stop_is_named_call_by_call(file: Address, caplog: pytest.LogCaptureFixture) -> None:
    writer = opened(file)
    add(writer, ANN)
    add(writer, BOB, ended=False)
    with locked(file):
        writer.finish(0.0, NOON)
    lost = lost_calls(caplog)
    assert (writer.lost, set(lost)) == (2, {ANN, BOB})
    assert HUNG_UP in lost[ANN]
    assert "it was on" in lost[BOB]


def test_a_folder_that_is_removed_loses_nothing_that_waited_in_it(file: Address) -> None:
    writer = opened(file)
    with locked(file):
        add(writer, ANN)
        writer.deliver(0.0, NOON)
        shutil.rmtree(file.spool_folder)
        add(writer, BOB)
        writer.finish(1.0, NOON)
    assert (writer.lost, len(on_disk(file))) == (0, 2)
    opened(file).finish(0.0, NOON)
    assert (stored(file), on_disk(file)) == ({ANN: HUNG_UP, BOB: HUNG_UP}, [])


def test_half_a_line_is_lost_with_an_error_and_nothing_else_is(file: Address, caplog: pytest.LogCaptureFixture) -> None:
    killed(file.spool_folder, entry(ANN).as_line(), "{}", '{"call_sid": "CAe', entry(BOB).as_line())
    writer = opened(file)
    for now in (0.0, 1.0):
        writer.deliver(now, NOON)
    writer.finish(2.0, NOON)
    assert stored(file) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert writer.lost == len(errors(caplog)) == 2


def test_a_killed_runs_records_are_written_and_its_open_calls_closed(address: Address) -> None:
    Database(address).migrate()
    on = replace(entry(ANN, ended=False), service=killed(address.spool_folder).stem)
    lines = [one.as_line() for one in (on, replace(entry(BOB), service=on.service), entry(EVE, ended=False))]
    (address.spool_folder / f"{on.service}.spool").write_text("".join(f"{line}\n" for line in lines))
    Database(address).write(on)
    opened(address).finish(0.0, NOON)
    assert stored(address) == {ANN: KILLED, BOB: HUNG_UP, EVE: None}, "the last one is another run's"
    assert on_disk(address) == []


def test_a_killed_runs_calls_are_closed_even_if_the_database_is_away_at_the_next_start(file: Address) -> None:
    Database(file).write(replace(entry(ANN, ended=False), service=killed(file.spool_folder).stem))
    with locked(file):
        opened(file).finish(0.0, NOON)
    assert stored(file) == {ANN: None}
    opened(file).finish(0.0, NOON)
    assert stored(file) == {ANN: KILLED}


def test_a_record_that_cannot_be_made_costs_no_other(file: Address) -> None:
    broken = call_record(ANN)
    broken.latencies_s.append("no number")  # type: ignore[arg-type]
    writer = opened(file)
    writer.add(broken, Slot(0))
    add(writer, BOB)
    writer.finish(0.0, NOON)
    assert (stored(file), writer.lost) == ({BOB: HUNG_UP}, 1)


def test_old_calls_are_deleted_if_there_is_a_limit(file: Address) -> None:
    Database(file).write(entry(ANN))
    Database(file).write(entry(BOB, at=NOON + timedelta(days=1)))
    for days, left in ((0, {ANN, BOB}), (1, {BOB})):
        opened(file, days).finish(0.0, NOON + timedelta(days=1, hours=1))
        assert set(stored(file)) == left


@pytest.mark.parametrize("waits", ["in memory", "in its spool", "in the spool of a killed run"])
def test_a_forgotten_call_does_not_come_back_from_where_its_record_waits(file: Address, waits: str) -> None:
    writer = opened(file)
    add(writer, ANN)
    writer.deliver(0.0, NOON)
    add(writer, ANN, BOB)
    if waits == "in its spool":
        with locked(file):
            writer.deliver(1.0, NOON)
    elif waits == "in the spool of a killed run":
        killed(file.spool_folder, entry(ANN).as_line())
    Database(file).forget("+15550100001")
    writer.finish(1.0 + RETRY_S, NOON)
    opened(file).finish(0.0, NOON)
    assert (stored(file), writer.lost, on_disk(file)) == ({BOB: HUNG_UP}, 0, [])


def test_the_service_is_told_within_half_a_minute_which_calls_are_forgotten(file: Address) -> None:
    writer, told = opened(file), list[set[str]]()
    writer.on_forgotten = told.append
    add(writer, ANN)
    writer.deliver(0.0, NOON)
    Database(file).forget("+15550100001")
    for now in (1.0, READ_FORGOTTEN_EVERY_S, READ_FORGOTTEN_EVERY_S + 1.0):
        writer.deliver(now, NOON)
    assert told == [{ANN}]
    with locked(file):
        writer.deliver(2 * READ_FORGOTTEN_EVERY_S, NOON)
    writer.finish(3 * READ_FORGOTTEN_EVERY_S, NOON)
    assert (told[1:], READ_FORGOTTEN_EVERY_S) == ([{ANN}, {ANN}], 30.0), "a call may have come back in between"


@contextlib.asynccontextmanager
async def writing(address: Address) -> AsyncIterator[CallLogWriter]:
    """A writer with its thread, which asks a database that is away again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.telemetry.call_log.writer.RETRY_S", 0.05)
        writer = CallLogWriter(address, "AC1", "synthetic:script")
        writer.start()
        try:
            yield writer
        finally:
            await writer.stop()


async def until_stored(address: Address, calls: dict[str, str | None]) -> None:
    """Wait for what the writer's thread does."""

    def are_stored() -> bool:
        with contextlib.suppress(CallLogError):  # no tables yet
            return stored(address) == calls
        return False

    await until(lambda: asyncio.to_thread(are_stored))


async def test_a_call_is_stored_from_its_beginning_on(address: Address) -> None:
    async with writing(address) as writer:
        writer.add(call_record(ended=False), Slot(3))
        await until_stored(address, {ANN: None})
        writer.add(call_record(), Slot(3))
    assert stored(address) == {ANN: HUNG_UP}
    call = Database(address).find(ANN)
    assert (call.slot, call.account_sid, call.checkpoint) == (3, "AC1", "synthetic:script")
    assert [word.text for word in call.transcript] == ["Hello.", "Hi"]
    assert list(address.spool_folder.iterdir()) == []


def test_a_record_is_stored_as_it_was_when_it_was_handed_over_with_the_time_of_the_wall(file: Address) -> None:
    writer, tick = opened(file), timedelta(milliseconds=20)
    before = datetime.now(UTC)
    record = CallRecord(ANN, time.monotonic(), words=[Word(Side.MOSHI, "Hello.", 0.0, 0.5)])
    writer.add(record, Slot(0))
    after = datetime.now(UTC)
    record.words.clear()
    writer.finish(0.0, NOON)
    call = Database(file).find(ANN)
    assert len(call.transcript) == 1
    assert before - tick <= call.reserved_at <= after + tick


def remove(address: Address) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{address.file}{suffix}").unlink(missing_ok=True)


async def test_a_database_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    async with writing(address) as writer:
        add(writer, ANN)
        await until_stored(address, {ANN: HUNG_UP})
        remove(address)
        add(writer, BOB)
        await until_stored(address, {BOB: HUNG_UP})


@pytest.mark.slow
async def test_a_server_that_hangs_delays_no_stop_and_nothing_is_lost(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another connection holds the table, so that the thread hangs in the middle of a statement."""
    monkeypatch.setattr("app.telemetry.call_log.writer.STOP_LIMIT_S", 0.5)
    address = address_of(server.new_database(), tmp_path)
    Database(address).migrate()
    with psycopg.connect(address.conninfo) as other:
        other.execute("LOCK TABLE calls")
        async with writing(address) as writer:
            add(writer, ANN)
        assert any(ANN in line for line in on_disk(address))
    async with writing(address):
        await until_stored(address, {ANN: HUNG_UP})
