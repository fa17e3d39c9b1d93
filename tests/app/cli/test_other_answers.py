"""What the commands say when the service that they ask answers otherwise than ours does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import pytest_asyncio

from app.cli.calls_top import run_top
from app.cli.doctor.tunnel import running_service
from app.cli.drain import run_drain
from app.cli.simulate import Simulation, run_simulation
from app.config import Settings, read_settings

ANSWERS = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "a web page": b"HTTP/1.1 202 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n<html/>",
    "an empty body": b"HTTP/1.1 202 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
    "a list": b"HTTP/1.1 202 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
    "another object": b"HTTP/1.1 202 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    "an error": b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
}
COMMANDS: dict[str, Callable[[Settings], int]] = {
    "top": partial(run_top, url=None, once=True),
    "drain": partial(run_drain, url=None, node=None, seconds=None, wait=True),
    "simulate": partial(run_simulation, wanted=Simulation(seconds=0.1)),
}


@pytest_asyncio.fixture(params=[status + name for name in ANSWERS for status in ("", "200 ")])
async def settings(request: pytest.FixtureRequest) -> AsyncIterator[Settings]:
    """Serve one answer to whatever is asked."""
    name = request.param.removeprefix("200 ")
    answer = ANSWERS[name].replace(b" 202 ", b" 200 ") if request.param != name else ANSWERS[name]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield read_settings(port=server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_it_is_reported_in_one_line(
    settings: Settings, command: Callable[[Settings], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(command, settings) in (1, 2)
    captured = capsys.readouterr()
    assert captured.err.startswith("moshi-bridge: ")
    assert len(captured.err.splitlines()) == 1, captured.err


async def test_it_is_no_service_of_ours_to_the_doctor(settings: Settings) -> None:
    assert await asyncio.to_thread(running_service, settings) is None
