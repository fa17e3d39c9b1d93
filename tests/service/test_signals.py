"""How the service ends: by the end of its terminal, by signals while it ends, by a part that fails."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from app.cli.service_process import free_port
from app.server.background import TaskFailed
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, Pulse
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN, Phone
from tests.service.test_serve import GOOD, LOOPBACK, start
from tests.service.test_serve import running as running_program
from tests.service.test_service_tasks import running
from tests.tunnel.install import install
from tests.tunnel.number import BEFORE, FakeNumber
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import serving_rest

NUMBER, OLD_URL = "+15550100000", "https://old.example.com/v"
CANNOT_FLUSH = 120
"""Python's exit status when standard error has gone."""


@contextlib.asynccontextmanager
async def on_a_terminal(folder: Path, **settings: Any) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start `serve` on a terminal of its own; yield the process and the other end of the terminal."""
    leader, follower = os.openpty()
    process = await start(folder, "serve", module="tests.tunnel.hasty", terminal=follower, **settings)
    os.close(follower)
    async with running_program(process):
        yield process, leader


async def until_written(terminal: int, text: str) -> None:
    seen, written, loop = bytearray(), asyncio.Event(), asyncio.get_running_loop()

    def read() -> None:
        seen.extend(os.read(terminal, 65_536))
        if text.encode() in seen:
            written.set()

    loop.add_reader(terminal, read)
    try:
        await asyncio.wait_for(written.wait(), PATIENCE_S)
    finally:
        loop.remove_reader(terminal)


async def start_call(url: str) -> "asyncio.Task[object]":
    """Place a call that would last for an hour; return once there has been sound for a while."""
    opened = asyncio.Event()

    def watch(progress: Progress) -> None:
        if isinstance(progress, Pulse) and progress.at_s > 1.0:
            opened.set()

    calling: asyncio.Task[object] = asyncio.create_task(
        simulate(CallOptions(url, TOKEN, ACCOUNT, duration_s=3_600.0), watch)
    )
    await asyncio.wait_for(opened.wait(), PATIENCE_S)
    return calling


@pytest.mark.slow
async def test_a_closed_terminal_ends_the_service_in_order(tmp_path: Path) -> None:
    """The number leads back, the call's row has its end, its recording is whole, and no process is left."""
    tunnel, number, port = install(tmp_path / "bin"), OwnedNumber(NUMBER, OLD_URL, "GET", "", "POST"), free_port()
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as rest:
        settings = {
            **LOOPBACK,
            **tunnel.environment,
            "TUNNEL": "true",
            "SET_NUMBER": "true",
            "TWILIO_AUTH_TOKEN": TOKEN,
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_API_URL": rest.url,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "PORT": str(port),
            "CACHE_DIR": str(tmp_path / "cache"),
            "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
            "RECORDINGS_DIR": str(tmp_path / "recordings"),
        }
        async with on_a_terminal(tmp_path, **settings) as (process, terminal):
            await until_written(terminal, "the number leads to")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                url = (await http.get("/api/public")).json()["base_url"]
            calling = await start_call(url)
            os.close(terminal)
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() in (0, CANNOT_FLUSH)
                await calling
    assert (number.voice_url, number.voice_method) == (OLD_URL, "GET")
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as database:
        [(reason,)] = database.execute("SELECT end_reason FROM calls").fetchall()
    assert reason == "the service is stopping"
    [recording] = (tmp_path / "recordings").glob("*.flac")
    assert soundfile.info(recording).channels == 2
    await tunnel.gone()


@pytest.mark.slow
async def test_what_was_started_by_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    port = free_port()
    ignores = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    settings: dict[str, Any] = {**GOOD, "DATABASE_URL": "off", "PORT": str(port)}
    process = await start(tmp_path, "serve", preexec=ignores, **settings)
    async with running_program(process) as program:
        await program.until("ready for calls")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http, Phone(port, http).call() as call:
            for pid in program.everybody():
                os.kill(pid, signal.SIGHUP)
            await call.speaks(3)
        process.terminate()
        status, words = await program.end()
    assert (status, "is gone" in words) == (0, False)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP))],
)
async def test_signals_while_the_number_is_restored_do_not_lose_it(number: signal.Signals) -> None:
    phone_number = FakeNumber()
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    phone_number.may_restore.clear()
    async with running(number=phone_number) as (_, serving):
        async with asyncio.timeout(PATIENCE_S):
            await phone_number.next_url()
            os.kill(os.getpid(), number)
            await phone_number.restoring.wait()
            for _ in range(3):
                os.kill(os.getpid(), number)
                await asyncio.sleep(0)
            assert not serving.done()
            phone_number.may_restore.set()
            await serving
    assert (phone_number.leads_to, phone_number.restored) == (BEFORE, 1)
    assert {one: signal.getsignal(one) for one in before} == before


async def test_a_part_that_fails_in_mid_call_ends_the_service_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    number = FakeNumber()
    async with running(number=number, public_url="http://127.0.0.1:{port}") as (service, serving):
        await number.next_url()
        port = int(service.public.base_url.rpartition(":")[2])
        calling = await start_call(f"http://127.0.0.1:{port}")
        [record] = service.manager.records()
        monkeypatch.setattr(service.manager, "drain_calls", lambda: 1 / 0)
        service.drain.begin(limit_s=0.1)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(TaskFailed, match="the drain has failed"):
                await serving
            await calling
    assert record.end is not None
    assert number.leads_to == BEFORE
    assert service.supervisor.process_ids == {}
