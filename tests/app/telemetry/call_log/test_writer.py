"""The writer's own thread and real databases; what is waited for are files and rows, never a time."""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from app.calls.record import CallRecord, EndReason
from app.config import SettingsError, read_settings
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.engine import CallLogError
from app.telemetry.call_log.entry import KILLED
from app.telemetry.call_log.runs import Run
from app.telemetry.call_log.spool import Spool
from app.telemetry.call_log.writer import INBOX_RECORDS, CallLogWriter
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.postgres import PostgresServer
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, call_record, entry
from tests.processes.pipeline import PATIENCE_S
from workers.messages import Slot

LOOK_AGAIN_S = 0.02


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a database that is away again and again."""
    for module in ("delivery", "writer"):
        monkeypatch.setattr(f"app.telemetry.call_log.{module}.RETRY_S", 0.05)


@contextlib.asynccontextmanager
async def writing(address: Address, days: int = 0) -> AsyncIterator[CallLogWriter]:
    writer = CallLogWriter(address, "AC1", "synthetic:script", days)
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def file_address(folder: Path) -> Address:
    address = find_address(read_settings(database_url=f"sqlite:///{folder}/calls.db"))
    assert address
    return address


def make_tables(address: Address) -> None:
    """Migrate, while no writer does: Alembic can do it once at a time in a process."""
    Database(address).migrate()


async def kept(address: Address) -> dict[str, str | None]:
    """Return the end of every call in the database, by SID."""
    try:
        calls = await asyncio.to_thread(Database(address).recent, 10_000)
    except CallLogError:  # no tables yet
        return {}
    return {call.call_sid: call.end_reason for call in calls}


async def until_kept(address: Address, calls: dict[str, str | None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await kept(address) != calls:  # noqa: ASYNC110 - a database gives no sign
            await asyncio.sleep(LOOK_AGAIN_S)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - it becomes so in another thread
            await asyncio.sleep(LOOK_AGAIN_S)


@contextlib.contextmanager
def locked(address: Address) -> Iterator[None]:
    """Hold the database's file, so that nobody else can write it."""
    assert address.file
    with contextlib.closing(sqlite3.connect(address.file)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.rollback()


def waiting(address: Address) -> list[str]:
    """Return the lines of all spools."""
    return [line for path in address.spool_folder.glob("*.spool") for line in path.read_text().splitlines()]


HUNG_UP = EndReason.CALLER_HUNG_UP.value


async def test_a_call_is_in_the_database_from_its_beginning_on(address: Address) -> None:
    async with writing(address) as writer:
        writer.keep(call_record(ended=False), Slot(3))
        await until_kept(address, {ANN: None})
        writer.keep(call_record(), Slot(3))
    assert await kept(address) == {ANN: HUNG_UP}
    call = Database(address).find(ANN)
    assert (call.slot, call.account_sid, call.checkpoint) == (3, "AC1", "synthetic:script")
    assert "".join(text for _, text in call.pieces) == "Hello."
    assert list(address.spool_folder.iterdir()) == [], "everything has arrived"


async def test_a_record_is_kept_as_it_was_when_it_was_handed_over(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    record = call_record()
    async with writing(address) as writer:
        writer.keep(record, Slot(0))
        record.text.clear()
        record.counts.clear()
        record.spans.clear()
    call = Database(address).find(ANN)
    assert len(call.pieces) == 2
    assert call.counters["frames_out"] == 2
    assert call.processing_p50_ms is not None


async def test_the_times_of_a_call_are_those_of_the_wall(tmp_path: Path) -> None:
    """A known answer: a call that is handed over as it begins was reserved between two looks at the wall's clock."""
    address = file_address(tmp_path)
    async with writing(address) as writer:
        before = datetime.now(UTC)
        record = CallRecord(ANN, asyncio.get_running_loop().time())
        writer.keep(record, Slot(0))
        after = datetime.now(UTC)
    a_tick = timedelta(milliseconds=20)
    assert before - a_tick <= Database(address).find(ANN).reserved_at <= after + a_tick


async def test_what_a_locked_database_does_not_take_waits_and_is_written_when_it_is_free(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    make_tables(address)
    async with writing(address) as writer:
        with locked(address):
            for call_sid in (ANN, BOB):
                writer.keep(call_record(call_sid), Slot(0))
            await until(lambda: len(waiting(address)) == 2)
            assert writer.is_away
            assert await kept(address) == {}
        await until_kept(address, {ANN: HUNG_UP, BOB: HUNG_UP})


async def test_what_waited_when_the_service_stopped_is_written_once_by_the_next(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    make_tables(address)
    with locked(address):
        async with writing(address) as writer:
            writer.keep(call_record(ANN), Slot(0))
        assert len(waiting(address)) == 1
    for _ in range(2):
        async with writing(address) as writer:
            pass
        assert await kept(address) == {ANN: HUNG_UP}
        assert waiting(address) == []


async def test_a_server_that_crashes_and_comes_back_gets_everything(server: PostgresServer, tmp_path: Path) -> None:
    address = find_address(read_settings(database_url=server.new_database(), cache_dir=tmp_path))
    assert address
    async with writing(address) as writer:
        writer.keep(call_record(ANN), Slot(0))
        await until_kept(address, {ANN: HUNG_UP})
        server.stop()
        for call_sid in (BOB, EVE):
            writer.keep(call_record(call_sid), Slot(0))
        await until(lambda: writer.is_away)
        server.start()
        await until(lambda: not (writer.is_away or writer.waiting))
    assert await kept(address) == dict.fromkeys((ANN, BOB, EVE), HUNG_UP)


def left_behind(address: Address, *lines: str) -> str:
    """Leave what a run that was killed leaves, with records that waited; return the name of the run."""
    run = Run(address.spool_folder)
    if lines:
        Spool(address.spool_folder).append(*lines)
    os.close(run._descriptor)
    return run.name


async def test_a_killed_runs_records_are_brought_in_and_its_open_calls_closed(address: Address) -> None:
    make_tables(address)
    name = left_behind(address)
    calls = [replace(entry(ANN, ended=False), service=name), replace(entry(BOB), service=name)]
    left_behind(address, *(call.as_line() for call in [*calls, replace(entry(EVE, ended=False), service="a live run")]))
    Database(address).write(calls[0])
    async with writing(address):
        await until_kept(address, {ANN: KILLED, BOB: HUNG_UP, EVE: None})


async def test_a_killed_runs_calls_are_closed_even_if_the_database_is_away_at_the_next_start(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    make_tables(address)
    Database(address).write(replace(entry(ANN, ended=False), service=left_behind(address)))
    with locked(address):
        async with writing(address):
            pass
    assert await kept(address) == {ANN: None}
    async with writing(address):
        await until_kept(address, {ANN: KILLED})


async def test_a_server_that_hangs_holds_up_no_stop_and_nothing_is_lost(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that hangs in the middle of a question: another one holds the table."""
    monkeypatch.setattr("app.telemetry.call_log.writer.STOP_WITHIN_S", 0.5)
    address = find_address(read_settings(database_url=server.new_database(), cache_dir=tmp_path))
    assert address
    make_tables(address)
    with psycopg.connect(address.conninfo) as other:
        other.execute("LOCK TABLE calls")
        async with writing(address) as writer:
            writer.keep(call_record(ANN), Slot(0))
    assert any(ANN in path.read_text() for path in address.spool_folder.iterdir())
    async with writing(address):
        await until_kept(address, {ANN: HUNG_UP})


async def test_records_that_nobody_takes_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = CallLogWriter(file_address(tmp_path), "AC1", "loopback")
    for number in range(INBOX_RECORDS + 1):
        writer.keep(call_record(CallSid(f"CA{number}")), Slot(0))
    assert [one.levelno for one in caplog.records] == [logging.ERROR]
    assert (getattr(caplog.records[0], "call_sid", ""), writer.lost) == (f"CA{INBOX_RECORDS}", 1)


async def test_a_record_that_cannot_be_made_costs_no_other(address: Address) -> None:
    broken = call_record(ANN)
    broken.latencies_s.append("no number")  # type: ignore[arg-type]
    async with writing(address) as writer:
        writer.keep(broken, Slot(0))
        writer.keep(call_record(BOB), Slot(0))
    assert await kept(address) == {BOB: HUNG_UP}
    assert writer.lost == 1


async def test_old_calls_are_deleted_when_the_service_starts(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    database = Database(address)
    database.migrate()
    for call_sid, age in ((ANN, 31), (BOB, 29)):
        database.write(entry(call_sid, at=datetime.now(UTC) - timedelta(days=age)))
    async with writing(address, days=30):
        await until_kept(address, {BOB: HUNG_UP})


async def test_without_a_limit_calls_stay_for_ever(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    database = Database(address)
    database.migrate()
    database.write(entry(ANN, at=NOON - timedelta(days=9_999)))
    async with writing(address) as writer:
        writer.keep(call_record(BOB), Slot(0))
    assert await kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}


def delete(address: Address) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{address.file}{suffix}").unlink(missing_ok=True)


async def test_a_database_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    address = file_address(tmp_path)
    async with writing(address) as writer:
        writer.keep(call_record(ANN), Slot(0))
        await until_kept(address, {ANN: HUNG_UP})
        delete(address)
        writer.keep(call_record(BOB), Slot(0))
        await until_kept(address, {BOB: HUNG_UP})


async def test_a_place_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = CallLogWriter(file_address(tmp_path / "file"), "AC1", "loopback")
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        writer.start()
