"""Where a record goes when the database, the disk or both take nothing. No thread, no time but what is told."""

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.config import read_settings
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.delivery import EXPIRE_EVERY_S, RECORDS_IN_MEMORY, RETRY_S, Delivery
from app.telemetry.call_log.entry import KILLED
from app.telemetry.call_log.runs import Run
from app.telemetry.call_log.spool import NAME, Spool
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, NOON, entry

HUNG_UP = "caller hung up"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.call_log.engine.LOCKED_FOR_S", 0.0)


@pytest.fixture
def address(tmp_path: Path) -> Address:
    address = find_address(read_settings(database_url=f"sqlite:///{tmp_path}/calls.db"))
    assert address
    Database(address).migrate()
    return address


def delivering(address: Address, most_bytes: int = 1 << 20, days: int = 0) -> Delivery:
    folder = address.spool_folder
    return Delivery(Database(address), Spool(folder, most_bytes), Run(folder), days)


def kept(address: Address) -> dict[str, str | None]:
    return {call.call_sid: call.end_reason for call in Database(address).recent(10_000)}


def on_disk(address: Address) -> list[str]:
    if not address.spool_folder.is_dir():
        return []
    return [line for path in address.spool_folder.iterdir() for line in path.read_text().splitlines()]


@contextlib.contextmanager
def locked(address: Address) -> Iterator[None]:
    """Hold the database's file, so that nobody else can write it."""
    assert address.file
    with contextlib.closing(sqlite3.connect(address.file)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.rollback()


def no_folder(address: Address) -> None:
    """Make it impossible to write the spool or the file of the run."""
    shutil.rmtree(address.spool_folder)
    address.spool_folder.touch()


def errors(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what was lost: SID and words."""
    return [(getattr(one, "call_sid", ""), one.getMessage()) for one in log.records if one.levelno == logging.ERROR]


def test_a_record_is_in_the_database_at_once_and_nothing_is_put_on_the_disk(address: Address) -> None:
    sending = delivering(address)
    sending.add(entry())
    sending.turn(0.0, NOON)
    assert kept(address) == {ANN: HUNG_UP}
    assert (on_disk(address), sending.waiting) == ([], 0)
    sending.finish(1.0, NOON)
    assert list(address.spool_folder.iterdir()) == []


def test_what_a_locked_file_does_not_take_waits_on_the_disk_and_is_counted_until_it_is_written(
    address: Address,
) -> None:
    sending = delivering(address)
    with locked(address):
        for call_sid in (ANN, BOB):
            sending.add(entry(call_sid))
            sending.turn(0.0, NOON)
        assert (sending.is_away, sending.waiting, len(on_disk(address))) == (True, 2, 2)
    sending.turn(RETRY_S / 2, NOON)
    assert kept(address) == {}, "it is not asked again before the pause is over"
    sending.turn(RETRY_S, NOON)
    assert kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert (sending.is_away, sending.waiting, on_disk(address)) == (False, 0, [])


@pytest.mark.parametrize("has_folder", [True, False], ids=["full", "folder gone"])
def test_a_disk_that_takes_nothing_loses_nothing_while_the_database_takes_it(
    address: Address, has_folder: bool
) -> None:
    sending = delivering(address, most_bytes=0)
    if not has_folder:
        no_folder(address)
    sending.add(entry(ANN))
    sending.turn(0.0, NOON)
    assert kept(address) == {ANN: HUNG_UP}
    sending.add(entry(BOB))
    sending.finish(1.0, NOON)
    assert kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert sending.lost == 0


def test_what_neither_takes_waits_in_memory_and_is_written_when_one_does(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    sending = delivering(address, most_bytes=0)
    with locked(address):
        for call_sid in (ANN, BOB):
            sending.add(entry(call_sid))
            sending.turn(0.0, NOON)
        assert (sending.waiting, on_disk(address)) == (2, [])
        assert len(errors(caplog)) == 1, "it is told once"
    sending.turn(RETRY_S, NOON)
    assert kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert sending.lost == 0


def test_memory_is_bounded_and_what_is_lost_is_named(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    sending = delivering(address)
    for number in range(RECORDS_IN_MEMORY + 1):
        sending.add(entry(CallSid(f"CA{number}")))
    assert sending.lost == 1
    ((call_sid, words),) = errors(caplog)
    assert call_sid == "CA0"
    assert HUNG_UP in words


def test_what_is_lost_at_the_stop_is_told_call_by_call(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    sending = delivering(address, most_bytes=0)
    no_folder(address)
    with locked(address):
        for one in (entry(ANN), entry(BOB, ended=False)):
            sending.add(one)
        sending.finish(0.0, NOON)
    assert sending.lost == 2
    lost = {call_sid: words for call_sid, words in errors(caplog) if call_sid}
    assert set(lost) == {ANN, BOB}
    assert HUNG_UP in lost[ANN]
    assert "it was on" in lost[BOB]
    assert kept(address) == {}


def test_a_full_spool_at_the_stop_leaves_records_beside_it_for_the_next_start(address: Address) -> None:
    sending = delivering(address, most_bytes=0)
    with locked(address):
        sending.add(entry(ANN))
        sending.finish(0.0, NOON)
    assert (sending.lost, len(on_disk(address))) == (0, 1)
    delivering(address).turn(0.0, NOON)
    assert kept(address) == {ANN: HUNG_UP}
    assert on_disk(address) == []


def test_a_folder_that_is_gone_is_made_again_and_what_waited_in_it_is_named(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    sending = delivering(address)
    shutil.rmtree(address.spool_folder)
    with locked(address):
        sending.add(entry(ANN))
        sending.turn(0.0, NOON)
        assert len(on_disk(address)) == 1
        shutil.rmtree(address.spool_folder)
        sending.add(entry(BOB))
        sending.finish(1.0, NOON)
    assert (sending.lost, [call_sid for call_sid, _ in errors(caplog)]) == (1, [ANN])
    delivering(address).turn(0.0, NOON)
    assert kept(address) == {BOB: HUNG_UP}


def test_while_another_process_delivers_records_wait_behind_it(address: Address) -> None:
    Spool(address.spool_folder).append(entry(ANN, ended=False).as_line())
    sending = delivering(address)
    sending.add(entry(ANN))
    with (address.spool_folder / NAME).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        sending.turn(0.0, NOON)
        assert kept(address) == {}
    sending.turn(1.0, NOON)
    assert kept(address) == {ANN: HUNG_UP}


def test_what_waited_is_written_before_what_comes(address: Address) -> None:
    Spool(address.spool_folder).append(entry(ANN, ended=False).as_line(), entry(BOB).as_line())
    sending = delivering(address)
    sending.add(entry(ANN))
    sending.turn(0.0, NOON)
    assert kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}


def test_half_a_line_is_lost_with_a_word_and_nothing_else_is(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    Spool(address.spool_folder).append(entry(ANN).as_line(), "{}", '{"call_sid": "CAe', entry(BOB).as_line())
    sending = delivering(address)
    sending.turn(0.0, NOON)
    sending.turn(1.0, NOON)
    assert kept(address) == {ANN: HUNG_UP, BOB: HUNG_UP}
    assert len(errors(caplog)) == 2


def test_a_killed_runs_calls_are_closed_once_its_records_are_in(address: Address) -> None:
    dead = Run(address.spool_folder)
    calls = [replace(entry(ANN, ended=False), service=dead.name), replace(entry(BOB), service=dead.name)]
    Database(address).write(calls[0])
    dead.leave([call.as_line() for call in calls])
    Spool(address.spool_folder).append(replace(entry(EVE, ended=False), service="a live run").as_line())
    os.close(dead._descriptor)
    delivering(address).turn(0.0, NOON)
    assert kept(address) == {ANN: KILLED, BOB: HUNG_UP, EVE: None}


def test_old_calls_are_deleted_from_time_to_time_but_not_most_of_them_at_once(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    for number, call_sid in enumerate((ANN, BOB, EVE)):
        Database(address).write(entry(call_sid, at=NOON + timedelta(days=number)))
    sending = delivering(address, days=1)
    sending.turn(0.0, NOON + timedelta(days=1, hours=1))
    assert set(kept(address)) == {BOB, EVE}
    in_a_year = NOON + timedelta(days=366)
    sending.turn(EXPIRE_EVERY_S, in_a_year)
    assert set(kept(address)) == {BOB, EVE}
    assert "is it right?" in caplog.text
    sending.turn(5 * EXPIRE_EVERY_S, in_a_year + timedelta(days=1))
    assert kept(address) == {}


def test_that_most_would_be_deleted_is_told_once(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    Database(address).write(entry(ANN))
    sending = delivering(address, days=1)
    for number in range(3):
        sending.turn(number * EXPIRE_EVERY_S, NOON + timedelta(days=366, hours=6 * number))
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1
