"""The whole service, scraped: real workers, real calls, and what Prometheus' own tool says of the page."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from app.http.operator_routes import write_metrics
from app.telemetry.metrics.families import gauge
from tests.app.telemetry.metrics.test_families import samples
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Phone
from tests.service.test_serve import GOOD, Program, free_port, serve

PROMTOOL = shutil.which("promtool")
OPERATOR = "an-operators-secret-token"
LOOK_AGAIN_S = 0.1


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Program, Phone]]:
    port = free_port()
    settings = {**GOOD, "PORT": str(port), "MAX_CALLS": "2", "OPERATOR_TOKEN": OPERATOR}
    settings |= {"DATABASE_URL": f"sqlite:///{folder}/calls.db", "CACHE_DIR": str(folder)}
    async with (
        serve(folder, **settings) as program,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await program.until("ready for calls")
        yield program, Phone(port, http)


async def scrape(phone: Phone) -> bytes:
    return (await phone.http.get("/metrics")).raise_for_status().content


async def until(phone: Phone, name: str, value: float, **labels: str) -> bytes:
    """Scrape until a sample has at least this value; return the page."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = await scrape(phone)
            if samples(page).get((f"moshi_bridge_{name}", tuple(labels.items())), -1) >= value:
                return page
            await asyncio.sleep(LOOK_AGAIN_S)


async def test_metrics_of_a_call_and_of_a_worker_that_dies(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, phone):
        async with phone.call() as call:
            await call.speaks(10)
            found = samples(await scrape(phone))
            assert found["moshi_bridge_calls", (("state", "live"),)] == 1
            assert found["moshi_bridge_free_slots", ()] == 1
            assert found["moshi_bridge_mouth_to_ear_seconds_count", ()] >= 5
            assert found["moshi_bridge_first_sound_seconds_count", ()] == 1
            assert found["moshi_bridge_stage_seconds_count", (("stage", "step"),)] >= 9
            killed = max(program.everybody()[1:])
            os.kill(killed, signal.SIGKILL)
            page = await until(phone, "calls_ended_total", 1, reason="worker_lost")
        losses = {key: value for key, value in samples(page).items() if key[0] == "moshi_bridge_worker_losses_total"}
        assert sum(losses.values()) == 1
        await until(phone, "ready", 1)
        for worker in ("step", "encode", "decode"):
            page = await until(phone, "worker_work_seconds_count", 0, worker=worker)
        memory = {labels: value for (name, labels), value in samples(page).items() if "resident_memory" in name}
        assert len(memory) == 4, "app, encoder, engine, decoder"
        assert all(value > 10 << 20 for value in memory.values())
        assert samples(page)["moshi_bridge_call_log_up", ()] == 1
    for private in (call.call_sid, "0100001"):
        assert private not in page.decode()
    if PROMTOOL:
        check = [PROMTOOL, "check", "metrics"]
        done = await asyncio.to_thread(subprocess.run, check, input=page, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_only_operators_may_scrape_and_others_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, phone):
        assert (await phone.post("/twilio/voice", {}, token=None)).status_code == 403
        away = {"Host": "phone.example.com"}
        assert (await phone.http.get("/metrics", headers=away)).status_code == 403
        wrong = {**away, "Authorization": "Bearer something-else"}
        assert (await phone.http.get("/metrics", headers=wrong)).status_code == 403
        right = {**away, "Authorization": f"Bearer {OPERATOR}"}
        answer = await phone.http.get("/metrics", headers=right)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = samples(answer.content)
        assert found["moshi_bridge_refusals_total", (("reason", "unsigned"),)] == 1
        assert found["moshi_bridge_refusals_total", (("reason", "no_operator"),)] == 2


async def test_other_tasks_run_between_two_families_of_the_page() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    await write_metrics(gauge(f"number_{number}", "", number) for number in range(20))
    running.cancel()
    assert turns >= 20
