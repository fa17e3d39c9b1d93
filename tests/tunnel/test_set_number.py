"""`serve --tunnel --set-number` with fakes of cloudflared and of Twilio's REST API."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from app.cli.service_process import free_port
from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import GOOD, serve
from tests.tunnel.install import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import Held, serving_rest

OURS, BEFORE = "+15550100000", "https://old.example.com/v"
POINTED = "the number leads to"


@pytest.mark.slow
async def test_the_number_follows_the_tunnel_and_is_restored_even_after_a_kill_or_two_signals(tmp_path: Path) -> None:
    cloudflared, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE, "GET", "", "POST")
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as rest:
        settings = {**GOOD, **cloudflared.environment, "PUBLIC_URL": "", "PORT": str(free_port())}
        settings |= {"TWILIO_API_URL": rest.url, "TWILIO_PHONE_NUMBER": OURS, "CACHE_DIR": str(tmp_path / "cache")}
        settings |= {"module": "tests.tunnel.hasty"}
        arguments = ("--tunnel", "--set-number")
        async with serve(tmp_path, *arguments, **settings) as program:
            await program.until(POINTED)
            first = number.voice_url
            assert first.startswith("http://127.0.0.1:")
            os.kill(cloudflared.events("start")[0]["pid"], signal.SIGKILL)
            await program.until(POINTED)
            second = number.voice_url
            pids = program.everybody()
            program.process.kill()
            await program.end()
        await all_gone(pids)
        await cloudflared.gone()
        async with serve(tmp_path, *arguments, **settings) as program:
            await program.until(POINTED)
            assert len({BEFORE, first, second, number.voice_url}) == 4
            held = rest.held["POST IncomingPhoneNumbers"] = Held()
            program.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(held.reached.wait(), PATIENCE_S)
            program.process.send_signal(signal.SIGINT)
            del rest.held["POST IncomingPhoneNumbers"]
            held.release.set()
            _, words = await program.end()
    assert (number.voice_url, number.voice_method) == (BEFORE, "GET")
    assert OURS not in words
    await cloudflared.gone()
