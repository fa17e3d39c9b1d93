"""Places measured calls to a server: one or many at random phases, with the processor time that they took."""

import asyncio
import random
from dataclasses import dataclass

import numpy as np

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceFailed, ServiceProcess
from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.options import CallOptions, LegKind
from app.simulator.progress import OnProgress, ignore_progress
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import STEADY, Scenario
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.gc_freeze import freeze_gc

ARRIVE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """`calls` at once of a caller who says `audio` and listens for `tail_s` more seconds."""

    audio: Samples
    calls: int = 1
    line: Scenario = STEADY
    tail_s: float = 0.0
    leg: LegKind = LegKind.PHONE


@dataclass(frozen=True, slots=True)
class Measured:
    """The calls, and for each process of the server its processor seconds per second of call."""

    reports: list[CallReport]
    cpu: dict[str, float]


def speech(seconds: float) -> Samples:
    return np.resize(talk(), round(seconds * RATE_HZ))


async def simulate_calls(
    options: CallOptions, count: int, on_progress: OnProgress = ignore_progress
) -> list[CallReport]:
    """Place so many calls; `on_progress` follows the first. The phases are random but the same in each run."""
    phases = random.Random(count)  # noqa: S311 - no secret

    async def place(number: int, phase_s: float) -> CallReport:
        await asyncio.sleep(phase_s if number else 0.0)
        return await simulate(options, ignore_progress if number else on_progress)

    return await asyncio.gather(*(place(number, phases.uniform(0, ARRIVE_WITHIN_S)) for number in range(count)))


async def place_calls(
    service: ServiceProcess,
    load: Load,
    on_progress: OnProgress = ignore_progress,
    auth_token: str | None = AUTH_TOKEN,
) -> Measured:
    """Place the calls. Raises ServiceFailed unless all last until the caller hangs up."""
    duration_s = len(load.audio) / RATE_HZ + load.tail_s
    options = CallOptions(
        service.base_url,
        auth_token,
        ACCOUNT_SID,
        audio=load.audio,
        duration_s=duration_s,
        line=load.line,
        leg=load.leg,
    )
    freeze_gc()
    before = service.cpu_s()
    reports = await simulate_calls(options, load.calls, on_progress)
    after = service.cpu_s()
    if early := [f"{one.outcome}, {one.sentence}" for one in reports if one.outcome is not Outcome.CALLER_HUNG_UP]:
        raise ServiceFailed(f"{len(early)} of {load.calls} calls ended early: {early[0]}")
    call_s = sum(report.ended_s for report in reports)
    return Measured(reports, {name: (used - before.get(name, 0.0)) / call_s for name, used in after.items()})
