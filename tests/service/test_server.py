import asyncio
import socket

import pytest

from app.config import SettingsError, read_settings
from app.server.listener import listen
from app.server.pipeline_self_test import PipelineLost, SelfTestFailed
from app.server.service import Service, worker_config
from tests.processes.pipeline import PATIENCE_S

LOOPBACK = read_settings(engine="loopback", codec="loopback")


async def test_a_service_whose_workers_cannot_take_a_frame_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(LOOPBACK, lambda _: None)

    async def fail(slots: int) -> float:
        raise SelfTestFailed("step: not a number")

    monkeypatch.setattr(service._self_test, "run", fail)
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(SelfTestFailed, match="not a number"):
        async with asyncio.timeout(PATIENCE_S):
            await service.run(sock)
    assert service.supervisor.process_ids == {}
    assert not service.manager.ready


async def test_a_pipeline_that_is_lost_during_its_self_test_is_tested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service, attempts = Service(LOOPBACK, lambda _: None), 0
    test = service._self_test.run

    async def lose_first(slots: int) -> float:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise PipelineLost("self-test: step: killed by SIGKILL")
        return await test(slots)

    monkeypatch.setattr(service._self_test, "run", lose_first)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        running = asyncio.create_task(service.run(sock))
        async with asyncio.timeout(PATIENCE_S):
            await service.self_tested.wait()
        assert (attempts, service.manager.ready) == (2, True)
        running.cancel()
        await asyncio.wait({running})


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"PORT={port}, HOST=127.0.0.1"):
            listen(read_settings(port=port))


def test_workers_are_told_what_the_settings_say() -> None:
    settings = read_settings(max_calls=3, moshi_quantize="4", moshi_checkpoint="synthetic:script", codec="auto")
    config = worker_config(settings)
    assert (config.slots, config.quantize, config.checkpoint) == (3, 4, "synthetic:script")
    assert (config.engine, config.codec, config.greeting_frames) == ("mlx", "auto", 25)
    assert config.threads >= 1
