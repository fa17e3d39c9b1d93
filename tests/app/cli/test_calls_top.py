import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.calls_top import run_top, snapshot_view
from app.config import read_settings
from tests.app.calls.front import ANN
from tests.app.cli.terminal import shown
from tests.app.telemetry.test_live import Looking


async def snapshot_of_a_call() -> dict[str, Any]:
    looking = Looking()
    call = looking.front.talk(ANN)
    call.session.record.set_parties("+15550100001", "+15550100000", "inbound")
    looking.says(call, "Hello [red]you[/red] \\")
    return looking.snapshot()


@pytest.mark.parametrize(("width", "said"), [(80, "red]"), (140, "Hello [red]you[/red] \\")], ids=["narrow", "wide"])
async def test_a_call_is_a_row_with_what_was_said_last(width: int, said: str) -> None:
    text = shown(snapshot_view(await snapshot_of_a_call(), width), width)
    assert "…CAann" in text
    assert "…0001" in text
    assert said in text, "as it is, not as markup"
    assert "2 of 3 slots free" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width


async def test_without_calls_there_is_no_table() -> None:
    assert "no calls" in shown(snapshot_view(Looking().snapshot(), 100))


@pytest.mark.parametrize(
    ("status", "exit_status", "told"),
    [(200, 0, "line test"), (403, 1, "OPERATOR_TOKEN"), (404, 1, "not moshi-bridge")],
)
async def test_once_prints_and_returns(
    status: int, exit_status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization", ""))
        return web.json_response(Looking().snapshot(), status=status)

    app = web.Application()
    app.router.add_get("/api/live", answer)
    settings = read_settings(operator_token="a-long-operator-token")
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert await asyncio.to_thread(run_top, settings, url, True) == exit_status
    assert told in "".join(capsys.readouterr())
    assert tokens == ["Bearer a-long-operator-token"]


async def test_it_asks_for_the_last_minute_once_and_keeps_its_worst_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service makes what a new reader needs on its event loop: many calls make that long."""
    monkeypatch.setattr("app.cli.calls_top.REFRESH_S", 0.01)
    now_s = (snapshot := Looking().snapshot())["now_s"]
    steps = [[[now_s - 70, 79.0], [now_s - 30, 70.0]], [[now_s, 20.0]], []]
    answers = [*({**snapshot, "steps": some} for some in steps), {}]
    queries: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.json_response(answers[len(queries) - 1])

    app = web.Application()
    app.router.add_get("/api/live", answer)
    async with TestServer(app) as server:
        assert await asyncio.to_thread(run_top, read_settings(), f"http://127.0.0.1:{server.port}", False) == 1
    assert queries == [{"first": "true"}, {}, {}, {}]
    assert "worst step of the last minute 70 ms" in " ".join(capsys.readouterr().out.split())
