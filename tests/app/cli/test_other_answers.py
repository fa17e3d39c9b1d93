"""What the commands say when the service that they ask answers otherwise than ours does, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import pytest_asyncio

from app.cli.calls_top import run_top
from app.cli.drain import run_drain
from app.cli.service_client import running_service
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
Command = Callable[[Settings, str | None], int]
Asked = Callable[[Settings, str | None], tuple[int, str]]
COMMANDS: dict[str, Command] = {
    "top": partial(run_top, once=True),
    "drain": partial(run_drain, node=None, seconds=None, wait=True),
    "simulate": lambda settings, url: run_simulation(settings, Simulation(url, seconds=0.1)),
}


@pytest_asyncio.fixture(params=[status + name for name in ANSWERS for status in ("", "200 ")])
async def settings(request: pytest.FixtureRequest) -> AsyncIterator[Settings]:
    name = request.param.removeprefix("200 ")
    answer = ANSWERS[name].replace(b" 202 ", b" 200 ") if request.param != name else ANSWERS[name]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield read_settings(port=server.sockets[0].getsockname()[1])


@pytest.fixture(params=COMMANDS.values(), ids=list(COMMANDS))
def asked(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Asked:
    """A command: its exit status, and what is wrong, one line."""

    def ask(settings: Settings, url: str | None) -> tuple[int, str]:
        status: int = request.param(settings, url)
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("moshi-bridge: ")
        return status, line

    return ask


async def test_it_is_reported_in_one_line(settings: Settings, asked: Asked) -> None:
    status, _ = await asyncio.to_thread(asked, settings, None)
    assert status in (1, 2)


def test_an_absent_service_is_reported_in_one_line(asked: Asked) -> None:
    status, line = asked(read_settings(port=1), None)
    assert status in (1, 2)
    assert line.startswith("moshi-bridge: no service answers at http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["localhost:5001", "5001", "http://", "http://localhost:99999", "ftp://localhost"])
def test_what_is_no_url_of_a_service_is_told_in_one_line(asked: Asked, url: str) -> None:
    status, _ = asked(read_settings(operator_token="an-operators-secret"), url)
    assert status == 2


async def test_it_is_no_service_of_ours_to_the_doctor(settings: Settings) -> None:
    assert await asyncio.to_thread(running_service, settings) is None
