import asyncio
import json
import socket
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from app.cli.calls_top import run_top, snapshot_view
from app.config import read_settings
from tests.app.calls.front import ANN
from tests.app.telemetry.test_live import Looking


def shown(snapshot: dict[str, Any], width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(snapshot_view(snapshot, width))
    return capture.get()


async def snapshot_of_a_call() -> dict[str, Any]:
    looking = Looking()
    call = looking.front.talk(ANN)
    call.session.record.set_parties("+15550100001", "+15550100000", "inbound")
    looking.says(call, "Hello [red]you[/red] \\")
    return looking.snapshot()


@pytest.mark.parametrize(("width", "said"), [(80, "red]"), (140, "Hello")], ids=["narrow", "wide"])
async def test_a_call_is_a_row_with_what_was_said_last(width: int, said: str) -> None:
    text = shown(await snapshot_of_a_call(), width)
    assert "…CAann" in text
    assert "…0001" in text
    assert said in text
    assert "2 of 3 slots free" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width


async def test_what_moshi_says_is_no_markup() -> None:
    assert "[red]you[/red] \\" in shown(await snapshot_of_a_call(), 140)


async def test_without_calls_there_is_no_table() -> None:
    assert "no calls" in shown(Looking().snapshot(), 100)


async def served(status: int, body: object) -> tuple[web.AppRunner, str, list[str]]:
    """Answer every question so; return also what was shown by whoever asked."""
    shows: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        shows.append(request.headers.get("Authorization", ""))
        return web.Response(status=status, text=json.dumps(body), content_type="application/json")

    app = web.Application()
    app.router.add_get("/api/live", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    return runner, f"http://127.0.0.1:{sock.getsockname()[1]}", shows


@pytest.mark.parametrize(
    ("status", "exit_status", "told"),
    [(200, 0, "line test"), (403, 1, "OPERATOR_TOKEN"), (404, 1, "not moshi-bridge")],
)
async def test_once_prints_and_returns(
    status: int, exit_status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runner, url, shows = await served(status, Looking().snapshot())
    settings = read_settings(operator_token="a-long-operator-token")
    assert await asyncio.to_thread(run_top, settings, url, True) == exit_status
    await runner.cleanup()
    assert told in "".join(capsys.readouterr())
    assert shows == ["Bearer a-long-operator-token"]


def test_an_absent_service_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_top(read_settings(port=1), None, True) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_url_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_top(read_settings(), "5001", True) == 2
    assert capsys.readouterr().err.count("\n") == 1
