"""What callers notice when a worker dies or hangs: `python -m tests.processes.faults [CHECKPOINT]` prints a table.

The service with its real workers runs here, on the line test unless a checkpoint is named, and simulated callers who
talk all the time ring it. A fault is a signal to one worker while no call is on, while the pipeline starts, or in the
middle of one call or eight.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import uvloop

from app.calls.session import CallState
from app.config import Settings, read_settings
from app.server.service import Service
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.remote import EndCall, Remote
from app.simulator.report import AUDIBLE, CallReport, Outcome
from app.twilio.events import RATE_HZ
from tests.service.phone import ACCOUNT, TOKEN
from workers.messages import Stage

SLOTS = 8
LOOK_S = 0.005
START_S = 0.1
"""So long after a worker was started it is hit while it starts."""
TALK_S = 2.0
"""So long calls have been on when the fault comes."""
CLOSED_WITHIN_S = 30.0
WITHIN_S = 300.0
"""A guard against a run that would wait for ever; nothing is measured by it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A signal; a stopped process goes on after `resume_s`, None for never, if it still exists."""

    name: str
    signal: signal.Signals
    resume_s: float | None = None

    async def strike(self, process_id: int) -> None:
        """Send the signal; go on in the background."""
        os.kill(process_id, self.signal)

    async def resume(self, process_id: int) -> None:
        """Let a stopped process go on once its time has come."""
        if self.resume_s is not None:
            await asyncio.sleep(self.resume_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGCONT)


KILLED = Fault("kill -9", signal.SIGKILL)
STOPPED_10_S = Fault("SIGSTOP 10 s", signal.SIGSTOP, 10.0)
STOPPED = Fault("SIGSTOP for good", signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of a fault: times in seconds since it; None where it was never noticed or there was no call."""

    noticed_s: float | None
    ready_s: float | None
    """When the next pipeline was ready."""
    resumed_s: float | None
    """When the last of the calls went on."""
    silence_s: float | None
    """For how long a caller heard nothing, the longest of all calls."""
    lost: int
    """Calls that ended before their callers hung up."""
    next_call_s: float
    """When a caller who rang again and again heard the first sound."""
    left_behind: str
    """Slots, processes and descriptors that were not given back; empty if all were."""


def line_test(**changes: object) -> Settings:
    """Return settings of a service that echoes what callers say."""
    wanted = {"engine": "loopback", "codec": "loopback", "max_calls": SLOTS, "database_url": "off"}
    account = {"twilio_auth_token": TOKEN, "twilio_account_sid": ACCOUNT}
    return read_settings(**{**wanted, **account, **changes})


@dataclass
class Running:
    """A running service and callers."""

    service: Service
    base_url: str

    async def call(self, seconds: float, remote: Remote | None = None) -> CallReport:
        """Talk all the time, for so long, or until the service or `remote` hangs up."""
        said = np.random.default_rng(1).normal(0, 3_000, round(seconds * RATE_HZ)).astype(np.int16)
        return await simulate(CallOptions(self.base_url, TOKEN, ACCOUNT, audio=said), remote=remote)

    async def call_until_heard(self) -> float:
        """Ring again and again until Moshi speaks; return when it did, on the monotonic clock."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                report = await self.call(1.0)
                if report.outcome is Outcome.CALLER_HUNG_UP and report.first_sound_s is not None:
                    return time.monotonic() - report.ended_s + report.first_sound_s
                await asyncio.sleep(LOOK_S)

    async def until_live(self, calls: int) -> None:
        """Wait until so many callers talk."""
        while self.service.manager.states[CallState.LIVE] < calls:  # noqa: ASYNC110 - a stopwatch
            await asyncio.sleep(LOOK_S)

    async def until_lost(self) -> float:
        """Return when the service has noticed that its pipeline is lost."""
        while not any(worker.losses for worker in self.service.supervisor.workers):  # noqa: ASYNC110 - a stopwatch
            await asyncio.sleep(LOOK_S)
        return time.monotonic()

    async def until_ready(self) -> float:
        """Return when the next pipeline was ready."""
        await self.until_lost()
        await self.service.supervisor.wait_ready()
        return time.monotonic()

    async def until_resumed(self, calls: int) -> float:
        """Return when each of so many calls had gone on or ended."""
        await self.until_lost()
        statistics = self.service.manager.statistics
        while statistics.histograms.gap.count + statistics.ends.total() < calls:  # noqa: ASYNC110 - a stopwatch
            await asyncio.sleep(LOOK_S)
        return time.monotonic()


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Running]:
    """Run a service until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        base_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        service = Service(settings.replaced(public_url=base_url), lambda _: None)
        serving = asyncio.create_task(service.run(sock))
        try:
            yield Running(service, base_url)
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def started(running: Running, stage: Stage) -> int:
    """Return the process of a stage once it has begun to start."""
    while stage not in running.service.supervisor.process_ids:  # noqa: ASYNC110 - a stopwatch
        await asyncio.sleep(0)
    await asyncio.sleep(START_S)
    return running.service.supervisor.process_ids[stage]


async def run_fault(settings: Settings, stage: Stage, fault: Fault, calls: int, at_start: bool = False) -> Outcomes:
    """Hit one worker of a service of its own; return what came of it."""
    if not at_start:
        async with serving(settings) as running:  # opens what this process opens once and keeps
            await running.service.self_tested.wait()
    descriptors, lost = psutil.Process().num_fds(), 0
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    async with serving(settings) as running:
        if at_start:
            process_id = await started(running, stage)
        else:
            await running.service.self_tested.wait()
        remotes = [Remote() for _ in range(calls)]
        talking = [asyncio.create_task(running.call(TALK_S + WITHIN_S, remote)) for remote in remotes]
        await running.until_live(calls)
        await asyncio.sleep(0 if at_start else TALK_S)
        process_id = running.service.supervisor.process_ids[stage]
        watches = [running.until_lost(), running.until_ready(), running.until_resumed(calls)]
        watching = [asyncio.create_task(watch) for watch in watches]
        await fault.strike(process_id)
        struck_s = time.monotonic()
        resuming = asyncio.create_task(fault.resume(process_id))
        if calls:
            async with asyncio.timeout(WITHIN_S):
                await watching[-1]
            lost = running.service.manager.statistics.ends.total()
            await asyncio.sleep(TALK_S)
            for remote in remotes:
                remote.send(EndCall())
        elif not at_start:
            await watching[0]
        reports = await asyncio.gather(*talking)
        next_call_s = await running.call_until_heard() - struck_s
        noticed_s, ready_s, resumed_s = (one.result() - struck_s if one.done() else None for one in watching)
        manager = running.service.manager
        for task in (*watching, resuming):
            task.cancel()
        await manager.no_calls.wait()
        left = [f"{manager.slots - manager.free_slots} slots"] if manager.free_slots != manager.slots else []
    if not at_start:  # when several run at once
        left += await _left_behind(descriptors, children)
    silent_s = max(map(silence_s, reports), default=None)
    resumed_s = resumed_s if calls else None
    return Outcomes(noticed_s, ready_s, resumed_s, silent_s, lost, next_call_s, ", ".join(left))


async def _left_behind(descriptors: int, before: set[int]) -> list[str]:
    """Return what this process holds more than before, when it has had time to close its sockets."""
    process, until_s = psutil.Process(), time.monotonic() + CLOSED_WITHIN_S
    while (more := process.num_fds() - descriptors) > 0 and time.monotonic() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    children = [f"process {child.pid}" for child in process.children(recursive=True) if child.pid not in before]
    return [*([f"{more} descriptors"] if more > 0 else []), *children]


def silence_s(report: CallReport) -> float:
    """Return the longest time in which nothing was heard."""
    audible = np.flatnonzero(np.abs(report.heard.astype(np.int32)) > AUDIBLE)
    return float(np.diff([0, *audible, len(report.heard)]).max()) / RATE_HZ


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _row(fault: Fault, stage: Stage, when: str, outcomes: Outcomes) -> str:
    figures = (outcomes.noticed_s, outcomes.ready_s, outcomes.resumed_s, outcomes.silence_s, outcomes.next_call_s)
    cells = (fault.name, stage, when, *map(_seconds, figures), str(outcomes.lost), outcomes.left_behind or "nothing")
    return f"| {' | '.join(cells)} |"


async def _table(settings: Settings) -> AsyncIterator[str]:
    yield "| fault | worker | when | noticed | ready again | calls go on | silence | next call | lost | left behind |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for when, calls in (("idle", 0), ("1 call", 1), ("8 calls", SLOTS)):
        for fault, stage in _all():
            yield _row(fault, stage, when, await run_fault(settings, stage, fault, calls))
    for fault in (KILLED, STOPPED_10_S, STOPPED):  # those that are stopped wait for minutes: all at once
        runs = [run_fault(settings, stage, fault, 0, at_start=True) for stage in Stage]
        for stage, outcomes in zip(Stage, await asyncio.gather(*runs), strict=True):
            yield _row(fault, stage, "at start", outcomes)


def _all() -> Iterator[tuple[Fault, Stage]]:
    yield from ((fault, stage) for fault in (KILLED, STOPPED_10_S, STOPPED) for stage in Stage)


async def _print_table() -> None:
    checkpoint = {"engine": "mlx", "codec": "numpy", "moshi_checkpoint": sys.argv[1]} if sys.argv[1:] else {}
    async for line in _table(line_test(**checkpoint)):
        print(line, flush=True)


if __name__ == "__main__":
    uvloop.run(_print_table())
