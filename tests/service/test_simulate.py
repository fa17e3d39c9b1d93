"""`moshi-bridge simulate` and `bench`: commands that call, or start, a service process."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, LOOPBACK, ServiceProcess, start_service
from app.cli.simulate import Simulation, run_simulation
from app.config import Settings, read_settings
from app.simulator.trouble import Scenario
from tests.processes.pipeline import PATIENCE_S
from tests.service.test_serve import ROOT

LOOK_AGAIN_S = 0.05
PROCESSES = 1 + 3

pytestmark = pytest.mark.asyncio(loop_scope="module")
NUMBERS = {"ada": "+15551234567", "leo": "+15551234568"}


def settings_of(port: int | str, token: str = AUTH_TOKEN) -> Settings:
    return read_settings(twilio_auth_token=token, twilio_account_sid=ACCOUNT_SID, port=port)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    personas = tmp_path_factory.mktemp("personas")
    for name, number in NUMBERS.items():
        (personas / f"{name}.toml").write_text(f'numbers = ["{number}"]')
    environment = {**LOOPBACK, "MAX_CALLS": "2", "PUBLIC_URL": "https://phone.example.com"}
    async with start_service(
        environment | {"PERSONAS_DIR": str(personas)}, tmp_path_factory.mktemp("service") / "log"
    ) as service:
        yield service


async def simulated(service: ServiceProcess, token: str = AUTH_TOKEN, **wanted: Any) -> int:
    """Call the service that these settings find, whose public URL is another."""
    settings = settings_of(service.base_url.rpartition(":")[2], token)
    return await asyncio.to_thread(run_simulation, settings, Simulation(**wanted))


async def test_many_callers_make_a_table_figures_and_a_picture(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, picture = tmp_path / "calls.json", tmp_path / "calls.png"
    assert await simulated(service, calls=2, seconds=1.0, json_file=json_file, picture=picture) == 0
    figures = json.loads(json_file.read_text())
    assert [call["outcome"] for call in figures] == ["caller-hung-up"] * 2
    assert len({call["call_sid"] for call in figures}) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(call["call_sid"][-6:] in table for call in figures)


@pytest.mark.parametrize(("option", "name"), [("wav", "nowhere/call.wav"), ("picture", "call.doc")])
async def test_a_file_that_cannot_be_written_is_one_line_below_the_table(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    wanted: dict[str, Any] = {option: tmp_path / name}
    assert await simulated(service, seconds=0.2, **wanted) == 2
    shown = capsys.readouterr()
    assert ("hung up" in shown.out, len(shown.err.splitlines())) == (True, 1)


async def test_the_number_called_chooses_the_persona(service: ServiceProcess, tmp_path: Path) -> None:
    file = tmp_path / "call.json"
    for to, persona in [*((number, name) for name, number in NUMBERS.items()), (None, "")]:
        assert await simulated(service, to=to, seconds=0.2, json_file=file) == 0
        record = await service.record(json.loads(file.read_text())["call_sid"])
        assert record["persona"] == persona


async def test_a_line_that_is_cut_is_a_lost_socket_to_the_service(service: ServiceProcess, tmp_path: Path) -> None:
    assert await simulated(service, line=Scenario(cut_s=0.5), json_file=tmp_path / "call.json") == 0
    call = json.loads((tmp_path / "call.json").read_text())
    assert call["outcome"] == "line-cut"
    async with asyncio.timeout(PATIENCE_S):
        while (end := (await service.record(call["call_sid"]))["end"]) is None:
            pass
    assert end == "the socket was lost"


async def test_a_service_that_refuses_is_reported_with_what_may_be_wrong(
    service: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await simulated(service, "another", calls=2, seconds=0.5) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "HTTP 403" in line
    assert "TWILIO_AUTH_TOKEN" in line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_a_bench_that_is_ended_takes_its_service_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "bench", "line", "--seconds", "600"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(PATIENCE_S):
        bench = psutil.Process(process.pid)
        while len(started := bench.children(recursive=True)) < PROCESSES:  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(LOOK_AGAIN_S)
        process.send_signal(number)
        await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, started, PATIENCE_S)
    assert alive == []
