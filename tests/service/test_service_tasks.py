"""What runs beside the web server: the number and the line to systemd, with the real service and real workers."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import ServiceManager, read_settings
from app.server.background import ServiceFailed
from app.server.number_override import NumberManager
from app.server.serve import service_tasks
from app.server.service import Service
from app.server.tunnel_state import TunnelTimeouts
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import PUBLIC, TOKEN, Phone, closing_code
from tests.service.test_serve import GOOD, free_port, serve
from tests.sockets import socket_folder
from tests.tunnel.number import BEFORE, FakeNumber, NumberTrouble
from tests.tunnel.place import install


@dataclass
class Systemd:
    """The socket on which a service tells how it is."""

    address: str
    sock: socket.socket

    async def until(self, line: str) -> None:
        """Hear datagrams up to the one that holds this line."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(each.startswith(line) for each in await self.hear()):
                pass

    async def hear(self) -> list[str]:
        heard = await asyncio.get_running_loop().sock_recv(self.sock, 4_096)
        return heard.decode().splitlines()

    async def goes_quiet(self, seconds: float) -> None:
        """Hear until nothing comes for so long."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(self.hear(), seconds)


@contextlib.asynccontextmanager
async def systemd() -> AsyncIterator[Systemd]:
    with socket_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.setblocking(False)
        yield Systemd(str(folder / "notify"), sock)


@contextlib.asynccontextmanager
async def running(
    manager: ServiceManager | None = None,
    number: FakeNumber | None = None,
    cloudflared: str | None = None,
    **settings: object,
) -> AsyncIterator[tuple[Service, "asyncio.Task[None]"]]:
    """A line test on a free port, with what runs beside it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        if "public_url" in settings:
            settings["public_url"] = str(settings["public_url"]).format(port=port)
        chosen = read_settings(engine="loopback", codec="loopback", port=port, twilio_auth_token=TOKEN, **settings)
        service = Service(chosen, lambda _: None)
        pointed = NumberManager(number, (NumberTrouble,), service.self_tested.wait) if number else None
        beside = service_tasks(service, chosen, manager or ServiceManager(), cloudflared, pointed)
        serving = asyncio.create_task(service.run(sock, beside))
        try:
            yield service, serving
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError, ServiceFailed):
                await serving


async def test_the_number_leads_here_while_the_service_runs_and_back_when_it_ends() -> None:
    number = FakeNumber()
    async with running(number=number) as (service, _):
        async with asyncio.timeout(PATIENCE_S):
            assert await number.pointed.get() == service.public.base_url
        assert service.manager.ready
    assert (number.leads_to, number.restored) == (BEFORE, 1)


async def test_the_number_is_put_back_while_the_last_calls_go_on() -> None:
    number = FakeNumber()
    async with running(number=number) as (service, _):
        async with asyncio.timeout(PATIENCE_S):
            await number.pointed.get()
            service.stopping.set()
            await number.restoring.wait()
        assert number.leads_to == BEFORE
        assert service.supervisor.ready, "the workers still serve whoever talks"


@pytest.mark.parametrize("setting", ["tunnel_name", "tunnel_token"])
async def test_a_named_tunnel_is_open_once_its_public_url_leads_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    place, number = install(tmp_path / "bin"), FakeNumber()
    monkeypatch.setattr("app.server.tunnel_state.TunnelTimeouts", lambda: TunnelTimeouts(first_probe_s=0))
    monkeypatch.setenv("STANDIN_DIARY", place.environment["STANDIN_DIARY"])
    named: dict[str, Any] = {"tunnel": True, "public_url": "http://127.0.0.1:{port}", setting: "phone"}
    async with running(number=number, cloudflared=place.program, **named) as (service, _):
        assert not service.public.is_open
        async with asyncio.timeout(PATIENCE_S):
            assert await number.pointed.get() == service.public.base_url
        assert service.manager.ready
    (start,) = place.happened("start")
    assert "run" in start["arguments"]
    assert start["token"] == ("phone" if setting == "tunnel_token" else "")
    assert ("phone" in start["arguments"]) == (setting == "tunnel_name")


async def test_what_fails_beside_ends_the_service_and_says_so() -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        service = Service(read_settings(engine="loopback", codec="loopback"), lambda _: None)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ServiceFailed, match="a bug"):
                await service.run(sock, [("a task", fail)])
    assert service.supervisor.process_ids == {}


async def test_systemd_hears_of_a_life_from_its_start_to_its_end(tmp_path: Path) -> None:
    port = free_port()
    async with systemd() as manager:
        told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
        async with (
            serve(tmp_path, **GOOD, **told, PORT=str(port)) as program,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            await manager.until("STATUS=starting the workers")
            await manager.until("READY=1")
            await manager.until("WATCHDOG=1")
            async with Phone(port, http).call() as call:
                await call.speaks()
                await manager.until("STATUS=0 of 1 slots free, at " + PUBLIC)
                program.process.terminate()
                await manager.until("STOPPING=1")
                assert await closing_code(call.socket) in (1000, 1012)
            assert (await program.end())[0] == 0


async def test_the_watchdog_hears_nothing_from_a_hang_until_the_pipeline_is_back() -> None:
    async with systemd() as manager:
        told = ServiceManager(notify_socket=manager.address, watchdog_usec=200_000)
        async with running(told) as (service, _):
            await manager.until("WATCHDOG=1")
            pid = next(iter(service.supervisor.process_ids.values()))
            os.kill(pid, signal.SIGSTOP)
            await manager.goes_quiet(0.5)
            await manager.until("WATCHDOG=1")
