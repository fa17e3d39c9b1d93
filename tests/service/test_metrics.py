"""The whole service, scraped: real workers, real calls, and what Prometheus' own tool says of the page."""

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

from app.http.operator_routes import write_metrics
from app.telemetry.metrics.exposition import gauge
from tests.app.telemetry.metrics.test_exposition import samples
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Phone
from tests.service.served import served
from workers.messages import Stage

PROMTOOL = shutil.which("promtool")
LOOK_AGAIN_S = 0.05


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
    async with served(max_calls=2, database_url=f"sqlite:///{tmp_path}/calls.db") as running:
        phone = running.phone
        async with phone.call() as call:
            await call.speaks(10)
            found = samples(await scrape(phone))
            assert found["moshi_bridge_calls", (("state", "live"),)] == 1
            assert found["moshi_bridge_free_slots", ()] == 1
            assert found["moshi_bridge_mouth_to_ear_seconds_count", ()] >= 5
            assert found["moshi_bridge_first_sound_seconds_count", ()] == 1
            assert found["moshi_bridge_stage_seconds_count", (("stage", "step"),)] >= 9
            before = found["moshi_bridge_calls_resumed_total", ()]  # 0, unless a busy machine held a worker up
            os.kill(running.service.supervisor.process_ids[Stage.DECODE], signal.SIGKILL)
            page = await until(phone, "calls_resumed_total", before + 1)
            assert samples(page)["moshi_bridge_resume_gap_seconds_count", ()] == before + 1
            assert samples(page)["moshi_bridge_calls_ended_total", (("reason", "worker_lost"),)] == 0
        losses = {key: value for key, value in samples(page).items() if key[0] == "moshi_bridge_worker_losses_total"}
        assert sum(losses.values()) == before + 1
        await until(phone, "ready", 1)
        for worker in ("step", "encode", "decode"):
            page = await until(phone, "worker_work_seconds_count", 0, worker=worker)
        assert (await phone.http.get("/metrics")).headers["content-type"].startswith("text/plain; version=0.0.4")
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
