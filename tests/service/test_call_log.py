"""The whole service with a call log: real processes, real databases that go and come back."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.telemetry.call_log.entry import KILLED
from app.twilio.events import CallSid, Stopped
from tests.app.telemetry.call_log.postgres import PostgresServer, postgres
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Call, Phone, closing_code
from tests.service.test_serve import Program, command, serving

CALLS = 10
HUNG_UP = "caller hung up"
LOOK_AGAIN_S = 0.1

pytestmark = pytest.mark.slow


def with_database(folder: Path, url: str) -> contextlib.AbstractAsyncContextManager[tuple[Program, Phone]]:
    """Run the service with this database, ready for calls."""
    return serving(folder, MAX_CALLS=str(CALLS + 1), DATABASE_URL=url, CACHE_DIR=str(folder))


async def kept(folder: Path, url: str) -> dict[str, str | None]:
    status, words, errors = await command(
        folder, "calls", "--json", "--limit", "1000", DATABASE_URL=url, CACHE_DIR=str(folder)
    )
    assert status == 0, errors
    calls = json.loads(words)
    assert len({call["call_sid"] for call in calls}) == len(calls)
    return {call["call_sid"]: call["end_reason"] for call in calls}


async def until_kept(folder: Path, url: str, calls: dict[str, str | None]) -> None:
    async with asyncio.timeout(2 * PATIENCE_S):
        while (found := await kept(folder, url)) != calls:
            assert set(found) <= set(calls)
            await asyncio.sleep(LOOK_AGAIN_S)


async def hang_up(call: Call) -> None:
    await call.socket.send(call.carrier.send(Stopped()))
    assert await closing_code(call.socket) == 1000


async def talk(calls: list[Call], frames: int) -> None:
    """Let everybody say some frames, and hear as many."""
    await asyncio.gather(*(call.speaks(frames) for call in calls))


async def ten_calls_while_the_database_is_away(
    phone: Phone, away: contextlib.AbstractContextManager[None]
) -> list[CallSid]:
    """Ten calls are on, the database goes, one more comes, half of them hang up, it comes back, the rest hang up."""
    async with contextlib.AsyncExitStack() as lines:
        calls = [await lines.enter_async_context(phone.call()) for _ in range(CALLS)]
        await talk(calls, 3)
        with away:
            await talk(calls, 5)
            calls.append(await lines.enter_async_context(phone.call()))
            await talk(calls, 5)
            for call in calls[::2]:
                await hang_up(call)
            await talk(calls[1::2], 5)
        await talk(calls[1::2], 5)
        for call in calls[1::2]:
            await hang_up(call)
    return [call.call_sid for call in calls]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the database's file, so that nobody else can write it."""
    with contextlib.closing(sqlite3.connect(file)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.rollback()


@contextlib.contextmanager
def crashed(server: PostgresServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


async def test_a_locked_file_in_the_middle_of_ten_calls_delays_nobody_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/calls.db"
    async with with_database(tmp_path, url) as (_, phone):
        calls = await ten_calls_while_the_database_is_away(phone, locked(tmp_path / "calls.db"))
        await until_kept(tmp_path, url, dict.fromkeys(calls, HUNG_UP))


@contextlib.contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """Let it take connections and never answer."""
    server.signal(signal.SIGSTOP)
    yield
    server.signal(signal.SIGCONT)


@pytest.mark.parametrize("away", [crashed, frozen])
async def test_a_server_that_is_away_in_the_middle_of_ten_calls_delays_nobody_and_loses_nothing(
    tmp_path: Path, away: Callable[[PostgresServer], contextlib.AbstractContextManager[None]]
) -> None:
    with postgres() as server:
        url = server.new_database()
        async with with_database(tmp_path, url) as (_, phone):
            calls = await ten_calls_while_the_database_is_away(phone, away(server))
            await until_kept(tmp_path, url, dict.fromkeys(calls, HUNG_UP))


async def test_after_a_kill_the_next_start_writes_what_waited_and_closes_the_call_that_was_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/calls.db"
    async with with_database(tmp_path, url) as (program, phone):
        async with phone.call() as ended:
            await ended.speaks()
            await hang_up(ended)
        await until_kept(tmp_path, url, {ended.call_sid: HUNG_UP})
        with locked(tmp_path / "calls.db"):
            async with phone.call() as on:
                await on.speaks()
                await until_waiting(tmp_path, 1)
                os.kill(program.process.pid, signal.SIGKILL)
                on.socket.transport.abort()
            await program.end()
    for _ in range(2):
        async with with_database(tmp_path, url):
            await until_kept(tmp_path, url, {ended.call_sid: HUNG_UP, on.call_sid: KILLED})


async def until_waiting(folder: Path, lines: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while waiting(folder) < lines:  # noqa: ASYNC110 - a file gives no sign
            await asyncio.sleep(LOOK_AGAIN_S)


def waiting(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.spool"))
