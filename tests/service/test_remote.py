"""A service whose Moshi runs elsewhere: calls from a phone at fake servers, and at services of our own."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.calls.end_reason import EndReason
from app.calls.record_json import as_json
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceProcess, start_service
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.report import CallReport, Outcome
from tests.app.cli.talk.moshi_server import MoshiServer, serving
from tests.app.cli.talk.test_kyutai_server import local_web
from tests.app.telemetry.metrics.test_exposition import samples
from tests.service.caller import Caller
from tests.service.served import served
from tests.service.test_metrics import scrape
from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic import make_synthetic
from workers.checkpoints.synthetic.phrases import phrases

REMOTE: dict[str, Any] = {"engine": "remote", "codec": "auto"}


def ready_server() -> MoshiServer:
    server = MoshiServer()
    server.ready.set()
    return server


async def test_calls_at_two_servers_one_of_which_dies() -> None:
    one, two = ready_server(), ready_server()
    one.code = None
    async with (
        serving(one),
        serving(two),
        served(**REMOTE, moshi_servers=f"{one.url},{two.url}?sessions=2") as running,
    ):
        await running.until(two.url, "answers")
        assert running.free_slots == 3
        async with running.phone.call() as first:
            await first.speaks(8)
            async with running.phone.call() as second:
                await second.speaks(8)
                page = samples(await scrape(running.phone))
                assert page[("moshi_bridge_server_sessions", (("server", f"{one.url}/api/chat"),))] == 1
                assert page[("moshi_bridge_server_sessions", (("server", f"{two.url}/api/chat"),))] == 1
            one.ends_after = 0
            await running.until(first.call_sid, "remembers nothing")
            await first.speaks(8)
            record = running.record(first.call_sid)
            assert record.counts["moves"] == 1
            ((_, reason),) = record.moves
            assert one.url in reason
            assert as_json(record)["moves"]
        assert running.record(second.call_sid).counts["moves"] == 0
        page = samples(await scrape(running.phone))
        assert page[("moshi_bridge_server_failures_total", (("server", f"{one.url}/api/chat"),))] >= 1
        assert page[("moshi_bridge_moves_total", ())] == 1


async def test_a_call_that_no_server_takes_ends_with_a_reason() -> None:
    server = ready_server()
    async with serving(server), served(**REMOTE, moshi_servers=server.url) as running:
        server.status = 503
        async with running.phone.call() as call:
            await call.say(bytes(640))
            await running.until(call.call_sid, "no Moshi server takes the call")
        assert running.record(call.call_sid).end is EndReason.STAGE_FAILED


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MODELS}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from app.cli.main import main
main()
""".replace("MODELS", ", ".join(map(repr, ("mlx", "moshi_mlx", "rustymimi", "sentencepiece", "safetensors"))))


@pytest.mark.slow
async def test_it_serves_without_what_computes(tmp_path: Path) -> None:
    server = ready_server()
    async with serving(server):
        environment = {**os.environ, "ENGINE": "remote", "MOSHI_SERVERS": server.url, "DATABASE_URL": "off"}
        command = [sys.executable, "-c", BLOCKED, "doctor"]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert f"{server.url}/api/chat is ready" in done.stdout, done.stderr
        (tmp_path / "sitecustomize.py").write_text(BLOCKED.partition("from app")[0])
        remote = {"ENGINE": "remote", "MOSHI_SERVERS": server.url, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
        async with start_service(remote, tmp_path / "log") as service:
            report = await call(service, 1.5)
            assert report.outcome is Outcome.CALLER_HUNG_UP


async def call(service: ServiceProcess, seconds: float) -> CallReport:
    return await simulate(CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, duration_s=seconds))


@pytest.mark.slow
async def test_moshi_of_two_services_elsewhere_greets_and_one_is_killed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    speaks = {"MOSHI_CHECKPOINT": "synthetic:script", "CACHE_DIR": str(synthetic_cache(tmp_path_factory))}
    greeting = phrases()[0].text
    async with contextlib.AsyncExitStack() as stack:
        starts = (stack.enter_async_context(start_service(speaks, tmp_path / name)) for name in ("one", "two"))
        one, two = await asyncio.gather(*starts)
        servers = f"{one.base_url},{two.base_url}"
        async with start_service({"ENGINE": "remote", "MOSHI_SERVERS": servers}, tmp_path / "log") as service:
            for caller in (Caller(service), Caller(service)):
                await caller.until(lambda record: record["transcript"].startswith(greeting))
                await caller.hang_up()
            calls = [(await elsewhere.get("/api/calls")) for elsewhere in (one, two)]
            assert all(calls)
            caller = Caller(service)
            await caller.until(lambda record: record["transcript"])
            os.kill(one.process_id, signal.SIGKILL)
            await caller.until(lambda record: greeting in record["transcript"])
            record = await caller.hang_up()
            assert record["counts"]["moves"] == 1
            assert record["moves"][0][1].startswith(one.base_url.replace("http", "ws"))
            assert str(record["transcript"]).count(greeting) == 1


@pytest.mark.slow
async def test_calls_at_two_of_kyutais_servers_one_of_which_is_killed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`moshi_mlx.local_web` as it is, with random weights; a slow machine computes less than a frame in 80 ms."""
    checkpoint = make_synthetic("random:tiny", synthetic_cache(tmp_path_factory))
    async with contextlib.AsyncExitStack() as stack, local_web(checkpoint) as two:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        one = await first.enter_async_context(local_web(checkpoint))
        remote = {"ENGINE": "remote", "MOSHI_SERVERS": f"{one},{two}"}
        async with start_service(remote, tmp_path / "log") as service:
            for caller in (Caller(service), Caller(service)):
                await caller.until(lambda record: record["first_sound_s"] is not None)
                record = await caller.hang_up()
                assert record["counts"].get("moves", 0) == 0
            caller = Caller(service)
            await caller.until(lambda record: record["words"])
            await first.aclose()
            await caller.until(speaks_on_at_the_other_server)
            record = await caller.hang_up()
    assert [reason for _, reason in record["moves"] if one in reason]


def speaks_on_at_the_other_server(record: dict[str, Any]) -> bool:
    return bool(record["moves"]) and any(start_s > record["moves"][0][0] + 1.0 for _, _, start_s, _ in record["words"])
