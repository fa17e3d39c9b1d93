"""A simulated caller of a service in a process of its own, who hangs up when the test has seen enough."""

import asyncio
from collections.abc import Callable
from typing import Any

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceProcess
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, StreamOpened
from app.simulator.remote import EndCall, Remote
from app.simulator.report import Outcome
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import new_call_sid

LOOK_AGAIN_S = 0.1


class Caller:
    """Begins to call when it is made."""

    def __init__(self, service: ServiceProcess, voice_path: str = "/twilio/voice") -> None:
        self._service, self._call_sid, self._remote = service, new_call_sid(), Remote()
        self._opened = asyncio.Event()
        goes: dict[str, Any] = {"duration_s": 3_600.0, "voice_path": voice_path, "call_sid": self._call_sid}
        options = CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, **goes)
        self._calling = asyncio.create_task(simulate(options, self._on_progress, self._remote))

    async def until(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the record of the call once this holds for it."""
        async with asyncio.timeout(2 * PATIENCE_S):
            await self._opened.wait()
            while not wanted(record := await self._service.record(self._call_sid)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_AGAIN_S)
        return record

    async def hang_up(self) -> dict[str, Any]:
        """Return the record of the call, which must still be on."""
        self._remote.send(EndCall())
        report = await self._calling
        assert report.outcome is Outcome.ENDED_REMOTELY, report.sentence
        return await self._service.record(self._call_sid)

    def _on_progress(self, progress: Progress) -> None:
        if isinstance(progress, StreamOpened):
            self._opened.set()
