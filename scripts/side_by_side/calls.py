"""Place calls to a side: the same caller for each, speaking without a pause."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.cli.service_process import ACCOUNT_SID, ServiceFailed, ServiceProcess
from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.options import CallOptions
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import STEADY, Scenario
from app.twilio.events import RATE_HZ
from scripts.side_by_side.sides import Side

ARRIVE_WITHIN_S = 2.0
TAIL_S = 3.0
"""How long the caller listens after his last word, so that all he said can come back."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many callers at once, who speak for so long."""

    calls: int
    speech_s: float
    line: Scenario = STEADY

    @property
    def length_s(self) -> float:
        """How long one call is."""
        return self.speech_s + TAIL_S


WARM_UP = Load(1, 1.0)


@dataclass(frozen=True, slots=True)
class Calls:
    """What came of it; `cpu` is in processor seconds per second of one call, for each process of the server."""

    reports: Sequence[CallReport]
    cpu: dict[str, float]


async def place(side: Side, load: Load, log: Path, on_progress: OnProgress = ignore_progress) -> Calls:
    """Run the side, call it as often as wanted, and stop it; `on_progress` hears of the first caller.

    One short call goes before, so that what a server does but once is not counted. Raises ServiceFailed if the server
    does not come up or a call does not last until the caller hangs up.
    """
    async with side.serve(load.calls + 1, log) as server:
        await _crowd(side, server, WARM_UP, ignore_progress)
        before = server.cpu_s()
        reports = await _crowd(side, server, load, on_progress)
        after = server.cpu_s()
    call_s = sum(report.ended_s for report in reports)
    return Calls(reports, {name: (used - before.get(name, 0.0)) / call_s for name, used in after.items()})


async def _crowd(side: Side, server: ServiceProcess, load: Load, on_progress: OnProgress) -> list[CallReport]:
    phases = random.Random(load.calls)  # noqa: S311 - any phases will do, the same for every side
    waits_s = [0.0, *(phases.uniform(0, ARRIVE_WITHIN_S) for _ in range(load.calls - 1))]
    tells = [on_progress, *[ignore_progress] * (load.calls - 1)]
    calls = [_caller(side, server, load, wait_s, tell) for wait_s, tell in zip(waits_s, tells, strict=True)]
    reports = await asyncio.gather(*calls)
    if early := [report.sentence for report in reports if report.outcome is not Outcome.CALLER_HUNG_UP]:
        raise ServiceFailed(f"{len(early)} of {load.calls} calls ended early: {early[0]}")
    return reports


async def _caller(side: Side, server: ServiceProcess, load: Load, wait_s: float, tell: OnProgress) -> CallReport:
    await asyncio.sleep(wait_s)
    audio = np.resize(talk(), round(load.speech_s * RATE_HZ))
    options = CallOptions(
        server.base_url, side.auth_token, ACCOUNT_SID, audio=audio, duration_s=load.length_s, line=load.line
    )
    return await simulate(options, tell)
