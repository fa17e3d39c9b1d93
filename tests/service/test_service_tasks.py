"""What runs beside the web server, with the real service and real workers: self-test, number, tunnel, systemd."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.config import ServiceManager, read_settings
from app.server.assembly import worker_config
from app.server.background import TaskFailed
from app.server.number_override import NumberManager
from app.server.pipeline_self_test import PipelineSelfTest, SelfTestFailed
from app.server.serve import service_tasks
from app.server.service import Service
from app.server.tunnel_state import TunnelTimeouts
from app.twilio.events import CallSid
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import PUBLIC, TOKEN
from tests.sockets import socket_folder
from tests.tunnel.install import install
from tests.tunnel.number import BEFORE, FakeNumber, NumberTrouble


@dataclass
class Systemd:
    """The socket on which a service reports its state."""

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
            with contextlib.suppress(asyncio.CancelledError, TaskFailed):
                await serving


async def test_the_number_leads_here_until_the_service_stops_taking_calls() -> None:
    number = FakeNumber()
    async with running(number=number) as (service, _):
        assert await number.next_url() == service.public.base_url
        assert service.manager.ready
        service.stopping.set()
        await asyncio.wait_for(number.restoring.wait(), PATIENCE_S)
        assert number.leads_to == BEFORE
        assert service.supervisor.ready, "the workers still serve whoever talks"
    assert number.restored == 1


async def test_a_named_tunnel_is_open_once_its_public_url_leads_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudflared, number = install(tmp_path / "bin"), FakeNumber()
    monkeypatch.setattr("app.server.tunnel_state.TunnelTimeouts", lambda: TunnelTimeouts(first_probe_s=0))
    monkeypatch.setenv("FAKE_EVENTS", cloudflared.environment["FAKE_EVENTS"])
    named: dict[str, Any] = {"tunnel": True, "public_url": "http://127.0.0.1:{port}", "tunnel_token": "a-token"}
    async with running(number=number, cloudflared=cloudflared.program, **named) as (service, _):
        assert not service.public.is_open
        assert await number.next_url() == service.public.base_url
        assert service.manager.ready
    (start,) = cloudflared.events("start")
    assert (start["token"], "run" in start["arguments"], "a-token" in start["arguments"]) == ("a-token", True, False)


async def test_a_self_test_that_fails_ends_the_service_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise SelfTestFailed("not a number")

    monkeypatch.setattr(PipelineSelfTest, "run", fail)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        service = Service(read_settings(engine="loopback", codec="loopback"), lambda _: None)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(SelfTestFailed, match="not a number"):
                await service.run(sock)
    assert service.supervisor.process_ids == {}
    assert not service.manager.ready


async def test_systemd_is_told_of_start_state_hang_and_end() -> None:
    async with systemd() as manager:
        told = ServiceManager(notify_socket=manager.address, watchdog_usec=200_000)
        async with running(told, public_url=PUBLIC) as (service, _):
            for line in ("STATUS=starting the workers", "READY=1", "WATCHDOG=1"):
                await manager.until(line)
            assert service.manager.reserve(CallSid("CA1"))
            await manager.until(f"STATUS=0 of 1 slots free, at {PUBLIC}")
            os.kill(next(iter(service.supervisor.process_ids.values())), signal.SIGSTOP)
            await manager.goes_quiet(0.5)
            await manager.until("WATCHDOG=1")
            service.stopping.set()
            await manager.until("STOPPING=1")


def test_workers_are_told_what_the_settings_say() -> None:
    settings = read_settings(max_calls=3, moshi_quantize="4", moshi_checkpoint="synthetic:script", codec="auto")
    config = worker_config(settings)
    assert (config.slots, config.quantize, config.checkpoint) == (3, 4, "synthetic:script")
    assert (config.engine, config.codec, config.greeting_frames) == ("mlx", "auto", 25)
    assert config.threads >= 1
