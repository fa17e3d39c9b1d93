"""`moshi-bridge serve --tunnel` as a process."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest

from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, free_port, serve
from tests.tunnel.place import install

TUNNEL = {**LOOPBACK, "TUNNEL": "true", "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_ACCOUNT_SID": ACCOUNT}
ROOT = Path(__file__).parent.parent.parent


async def test_a_call_through_the_tunnel_and_an_end_that_leaves_nothing(tmp_path: Path) -> None:
    place, port = install(tmp_path / "bin"), free_port()
    async with serve(tmp_path, **TUNNEL, **place.environment, PORT=str(port)) as program:
        await program.until("the tunnel is open")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            public_url = (await http.get("/api/public")).json()["base_url"]
        report = await simulate(CallOptions(base_url=public_url, auth_token=TOKEN, account_sid=ACCOUNT, duration_s=0.5))
        assert report.outcome is Outcome.CALLER_HUNG_UP
        program.process.terminate()
        status, words = await program.end()
    assert status == 0
    assert "Traceback" not in words
    await all_gone([start["pid"] for start in place.happened("start")])


async def test_a_killed_service_leaves_no_tunnel(tmp_path: Path) -> None:
    place = install(tmp_path / "bin")
    async with serve(tmp_path, **TUNNEL, **place.environment, PORT=str(free_port())) as program:
        await place.until("start")
        program.process.kill()
        await program.end()
    await all_gone([start["pid"] for start in place.happened("start")])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "brew install cloudflared"),
        ({"TWILIO_AUTH_TOKEN": ""}, "TWILIO_AUTH_TOKEN is not set, but a tunnel can be reached from outside"),
        ({"VALIDATE_SIGNATURES": "false"}, "VALIDATE_SIGNATURES is false, but a tunnel"),
        ({"TUNNEL_NAME": "phone"}, "PUBLIC_URL must say"),
        ({"SET_NUMBER": "true"}, "SET_NUMBER needs TWILIO_PHONE_NUMBER"),
    ],
    ids=["no cloudflared", "no token", "no checks", "no url", "no number"],
)
async def test_what_a_tunnel_needs_and_has_not_is_told_in_one_line(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    async with serve(tmp_path, **{**TUNNEL, "PATH": str(tmp_path), "PORT": str(free_port()), **settings}) as program:
        status, words = await program.end()
    assert status == 2
    assert named in words
    assert len(words.splitlines()) == 1, words


async def test_the_flag_is_the_setting(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve", "--tunnel"),
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT), **LOOPBACK, "TWILIO_AUTH_TOKEN": TOKEN},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, words = await process.communicate()
    assert (process.returncode, b"cloudflared is not installed" in words) == (2, True), words
