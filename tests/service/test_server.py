import asyncio
import socket

import pytest

from app.config import read_settings
from app.server.assembly import worker_config
from app.server.pipeline_self_test import PipelineSelfTest, SelfTestFailed
from app.server.service import Service
from tests.processes.pipeline import PATIENCE_S

LOOPBACK = read_settings(engine="loopback", codec="loopback")


async def test_a_service_whose_workers_cannot_take_a_frame_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(LOOPBACK, lambda _: None)

    async def fail(self: PipelineSelfTest, slots: int) -> float:
        raise SelfTestFailed("step: not a number")

    monkeypatch.setattr(PipelineSelfTest, "run", fail)
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(SelfTestFailed, match="not a number"):
        async with asyncio.timeout(PATIENCE_S):
            await service.run(sock)
    assert service.supervisor.process_ids == {}
    assert not service.manager.ready


def test_workers_are_told_what_the_settings_say() -> None:
    settings = read_settings(max_calls=3, moshi_quantize="4", moshi_checkpoint="synthetic:script", codec="auto")
    config = worker_config(settings)
    assert (config.slots, config.quantize, config.checkpoint) == (3, 4, "synthetic:script")
    assert (config.engine, config.codec, config.greeting_frames) == ("mlx", "auto", 25)
    assert config.threads >= 1
