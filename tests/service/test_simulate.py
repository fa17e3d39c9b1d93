"""`moshi-bridge simulate` against a service of its own, in real time and therefore short."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, LOOPBACK, start_service
from app.cli.simulate import Simulation, run_simulation
from app.config import read_settings
from app.simulator.trouble import Scenario

SETTINGS_HERE: dict[str, object] = {"twilio_auth_token": AUTH_TOKEN, "twilio_account_sid": ACCOUNT_SID}
SETTINGS = read_settings(**SETTINGS_HERE)


async def test_many_callers_make_a_table_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with start_service({**LOOPBACK, "MAX_CALLS": "2"}, tmp_path / "log") as service:
        wanted = Simulation(service.base_url, calls=2, seconds=1.0)
        wanted = replace(wanted, json_file=tmp_path / "calls.json", picture=tmp_path / "calls.png")
        assert await asyncio.to_thread(run_simulation, SETTINGS, wanted) == 0
    figures = json.loads((tmp_path / "calls.json").read_text())
    assert [call["outcome"] for call in figures] == ["caller-hung-up"] * 2
    assert len({call["call_sid"] for call in figures}) == 2
    assert (tmp_path / "calls.png").read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(call["call_sid"][-6:] in table for call in figures)


async def test_a_line_that_is_cut_is_a_lost_socket_to_the_service(tmp_path: Path) -> None:
    async with start_service(LOOPBACK, tmp_path / "log") as service:
        wanted = Simulation(service.base_url, line=Scenario(cut_s=0.5), json_file=tmp_path / "call.json")
        assert await asyncio.to_thread(run_simulation, SETTINGS, wanted) == 0
        call = json.loads((tmp_path / "call.json").read_text())
        assert call["outcome"] == "line-cut"
        record = await service.record(call["call_sid"])
        while record["end"] is None:
            record = await service.record(call["call_sid"])
        assert record["end"] == "the socket was lost"


async def test_without_a_url_it_finds_the_service_of_these_settings_and_signs_for_its_public_url(
    tmp_path: Path,
) -> None:
    async with start_service({**LOOPBACK, "PUBLIC_URL": "https://phone.example.com"}, tmp_path / "log") as service:
        here = read_settings(**{**SETTINGS_HERE, "port": urlsplit(service.base_url).port})
        assert await asyncio.to_thread(run_simulation, here, Simulation(seconds=0.5)) == 0


async def test_a_service_that_refuses_is_reported_with_what_may_be_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with start_service(LOOPBACK, tmp_path / "log") as service:
        others = read_settings(**{**SETTINGS_HERE, "twilio_auth_token": "another"})
        wanted = Simulation(service.base_url, calls=2, seconds=0.5)
        assert await asyncio.to_thread(run_simulation, others, wanted) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "HTTP 403" in line
    assert "TWILIO_AUTH_TOKEN" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", None, "localhost:5001", "http://", "http://localhost:99999"])
async def test_an_absent_service_is_reported_in_one_line(url: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    nobody_there = read_settings(**{**SETTINGS_HERE, "port": 1})
    status = await asyncio.to_thread(run_simulation, nobody_there, Simulation(url, seconds=1.0))
    assert status == (1 if url == "http://127.0.0.1:1" else 2)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("moshi-bridge: ")
