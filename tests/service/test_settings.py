"""Settings as other programs leave them in the environment, given to `moshi-bridge serve` as a process."""

from pathlib import Path

import httpx
import pytest

from tests.app.test_setting_sources import CONDA_HOSTS, SPELLINGS
from tests.service.test_serve import LOOPBACK, free_port, serve

SID, TOKEN = "AC" + "1" * 32, "2" * 32
CONDA = {"HOST": CONDA_HOSTS[0], "PORT": "many", "SEED": "conda"}


async def test_names_that_others_have_taken_are_reported_in_one_line_each(tmp_path: Path) -> None:
    async with serve(tmp_path, **LOOPBACK, **CONDA) as program:
        status, words = await program.end()
    assert status == 2
    assert [line.split(":")[1].strip() for line in words.splitlines()] == ["PORT", "SEED"]
    async with serve(tmp_path, **LOOPBACK, HOST=CONDA_HOSTS[0]) as program:
        status, words = await program.end()
    assert (status, len(words.splitlines())) == (2, 1)
    assert "HOST=arm64-apple-darwin20.0.0 is no address of this machine (set in the environment" in words


async def test_prefixed_names_win_over_names_that_others_have_taken(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / ".env").write_text(f"MOSHI_BRIDGE_HOST=127.0.0.1\nMOSHI_BRIDGE_SEED=\nMOSHI_BRIDGE_PORT={port}\n")
    async with serve(tmp_path, **LOOPBACK, **CONDA) as program:
        await program.until("ready for calls")
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200


@pytest.mark.parametrize("spelling", SPELLINGS[1:4])
async def test_quotes_and_space_around_values_do_no_harm(tmp_path: Path, spelling: str) -> None:
    values = {**LOOPBACK, "PORT": str(free_port()), "TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": TOKEN}
    async with serve(tmp_path, **{name: spelling.format(value) for name, value in values.items()}) as program:
        await program.until("ready for calls")


async def test_a_token_that_can_hardly_be_one_is_a_warning_at_the_start(tmp_path: Path) -> None:
    async with serve(tmp_path, **LOOPBACK, PORT=str(free_port()), TWILIO_AUTH_TOKEN="the-auth-token") as program:
        await program.until("TWILIO_AUTH_TOKEN: it should be 32 hex digits, and is not")
