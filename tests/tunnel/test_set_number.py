"""`serve --tunnel --set-number` against the stand-ins of cloudflared and of Twilio's REST API."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, free_port, serve
from tests.tunnel.place import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import Held, serving_rest

OURS, BEFORE = "+15550100000", "https://old.example.com/v"
SETTINGS = {"TUNNEL": "true", "SET_NUMBER": "true", "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_ACCOUNT_SID": ACCOUNT}


async def test_the_number_follows_the_tunnel_and_is_put_back_at_the_end(tmp_path: Path) -> None:
    place, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE, "GET", "", "POST")
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as rest:
        told = {"TWILIO_API_URL": rest.url, "TWILIO_PHONE_NUMBER": OURS, "PORT": str(free_port())}
        told["CACHE_DIR"] = str(tmp_path / "cache")
        async with serve(tmp_path, **LOOPBACK, **SETTINGS, **told, **place.environment) as program:
            await program.until("the number leads to")
            first = number.voice_url
            assert first.startswith("http://127.0.0.1:")
            os.kill(place.happened("start")[0]["pid"], signal.SIGKILL)
            await program.until("the number leads to")
            assert number.voice_url not in (first, BEFORE)
            program.process.terminate()
            status, words = await program.end()
        assert (status, number.voice_url, number.voice_method) == (0, BEFORE, "GET")
        assert OURS not in words
    await all_gone([start["pid"] for start in place.happened("start")])


async def test_what_a_killed_service_has_left_behind_the_next_one_puts_back(tmp_path: Path) -> None:
    place, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE, "GET", "", "POST")
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as rest:
        told = {"TWILIO_API_URL": rest.url, "TWILIO_PHONE_NUMBER": OURS, "PORT": str(free_port())}
        ours = {**LOOPBACK, **SETTINGS, **told, **place.environment, "CACHE_DIR": str(tmp_path / "cache")}
        async with serve(tmp_path, **ours) as program:
            await program.until("the number leads to")
            program.process.kill()
            await program.end()
        left = number.voice_url
        assert left != BEFORE
        async with serve(tmp_path, **ours) as program:
            await program.until("the number leads to")
            assert number.voice_url not in (left, BEFORE)
            program.process.terminate()
            await program.end()
    assert (number.voice_url, number.voice_method) == (BEFORE, "GET")
    await all_gone([start["pid"] for start in place.happened("start")])


@pytest.mark.parametrize("asked", ["GET IncomingPhoneNumbers", "POST IncomingPhoneNumbers"])
async def test_a_second_signal_while_the_number_is_put_back_does_not_keep_it(tmp_path: Path, asked: str) -> None:
    place, number = install(tmp_path / "bin"), OwnedNumber(OURS, BEFORE, "GET", "", "POST")
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as rest:
        told = {"TWILIO_API_URL": rest.url, "TWILIO_PHONE_NUMBER": OURS, "PORT": str(free_port())}
        told["CACHE_DIR"] = str(tmp_path / "cache")
        async with serve(tmp_path, **LOOPBACK, **SETTINGS, **told, **place.environment) as program:
            await program.until("the number leads to")
            held = rest.held[asked] = Held()
            program.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                await held.reached.wait()
            program.process.send_signal(signal.SIGINT)
            del rest.held[asked]
            held.release.set()
            await program.end()
        assert (number.voice_url, number.voice_method) == (BEFORE, "GET")
    await all_gone([start["pid"] for start in place.happened("start")])
