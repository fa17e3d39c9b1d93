"""`moshi-bridge bench watched`: what it costs the app to be looked at.

Two services at a time, each with as many calls: one that nothing looks at, and one with a call log, with recordings,
with the page open, and so on, and with everything. So both have the same machine in the same seconds, whatever else
runs on it. Two bare ones against each other show how far the figures can be trusted. All take turns, round by round.
Processor seconds are those of the app's process alone, until it has written what it had to write.
"""

import asyncio
import contextlib
import json
import platform
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from app.bench.line import LOOPBACK
from app.bench.onlookers import Onlooker, collector, keep_the_page_open, listen, looking_on, scrape
from app.commands.trial import ACCOUNT_SID, AUTH_TOKEN, Trial, TrialFailed, trial
from app.demo.conversation import talk
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.report import CallReport, Outcome
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.heap import settle

NOTHING, ALL = "nothing", "all"
GOAL = 1.2
ARRIVE_WITHIN_S = 1.0
QUIET_S = 1.0
QUIET_CPU_S = 0.03
"""A service that used less than this in `QUIET_S` has nothing left to write."""
QUIET_WITHIN_S = 20.0
WAYS = ("log", "recording", "page", "listener", "metrics", "traces")


@dataclass(frozen=True, slots=True)
class Watch:
    """How a service is looked at: the settings that it needs, and who looks on."""

    settings: Mapping[str, str]
    onlookers: tuple[Onlooker, ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """So many calls at once, of so many seconds, so many rounds; all `ways` of looking on, and `each` by itself."""

    calls: int
    seconds: float
    rounds: int
    ways: tuple[str, ...] = WAYS
    each: bool = True

    @property
    def turns(self) -> tuple[str, ...]:
        """What is measured in a round."""
        return (NOTHING, *(self.ways if self.each else ()), ALL)


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds of the app per second of one call, in each round, and of the bare one beside it.

    `ratio` of the two is the median of the rounds.
    """

    way: str
    cpu: tuple[float, ...]
    bare: tuple[float, ...]
    ratio: float
    ratios: tuple[float, float]
    """The least and the largest of all rounds."""
    lag_p99_ms: float
    gaps: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What one service came to: processor seconds of the app per second of one call, lag of its event loop, gaps."""

    cpu: float
    lag_p99_ms: float
    gaps: int


def bench_watched(course: Course, json_path: Path | None) -> int:
    """Run, print the table, write the file; return the exit status: 1 when the goal is missed."""
    console = Console()
    with console.status(f"{course.rounds} rounds of {len(course.turns)} times 2 × {course.calls} calls …"):
        try:
            costs = uvloop.run(_run(course))
        except TrialFailed as error:
            console.print(f"[red]{error}[/]")
            return 1
    console.print(_table(course, costs))
    if json_path:
        figures = {"machine": platform.platform(), "course": asdict(course), "costs": [asdict(one) for one in costs]}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if costs[-1].ratio <= GOAL else 1


async def _run(course: Course) -> list[Cost]:
    pairs: dict[str, list[tuple[Turn, Turn]]] = {way: [] for way in course.turns}
    async with collector() as traces_endpoint:
        for number in range(course.rounds):
            for way in pairs:
                with tempfile.TemporaryDirectory() as folder:
                    watch = watch_of(way, course.ways, Path(folder), traces_endpoint)
                    pairs[way].append(await _pair(course, watch, Path(folder), number % 2 == 0))
    return [cost_of(way, some) for way, some in pairs.items()]


async def _pair(course: Course, watch: Watch, folder: Path, bare_first: bool) -> tuple[Turn, Turn]:
    """Return what the service with `watch` and the bare one came to; they change places from round to round."""
    watches = (Watch({}), watch) if bare_first else (watch, Watch({}))
    async with contextlib.AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(trial(_environment(course, one), folder / f"{place}.log"))
            for place, one in enumerate(watches)
        ]
        turns = await asyncio.gather(*map(partial(_turn, course), services, watches))
    return (turns[1], turns[0]) if bare_first else (turns[0], turns[1])


def _environment(course: Course, watch: Watch) -> dict[str, str]:
    return {**LOOPBACK, "MAX_CALLS": str(course.calls), **watch.settings}


def watch_of(way: str, ways: Sequence[str], folder: Path, traces_endpoint: str) -> Watch:
    """Return what looks on in this way; in `ALL` all of `ways` do."""
    known = {
        "log": Watch({"DATABASE_URL": f"sqlite:///{folder}/calls.db"}),
        "recording": Watch({"RECORDINGS_DIR": f"{folder}/recordings", "RECORD_CALLS": "all"}),
        "page": Watch({}, (keep_the_page_open,)),
        "listener": Watch({}, (listen,)),
        "metrics": Watch({}, (scrape,)),
        "traces": Watch({"TRACES_ENDPOINT": traces_endpoint}),
    }
    together = [known[one] for one in ways] if way == ALL else [known[way]] if way != NOTHING else []
    settings = {name: value for one in together for name, value in one.settings.items()}
    return Watch(settings, tuple(onlooker for one in together for onlooker in one.onlookers))


def cost_of(way: str, pairs: Sequence[tuple[Turn, Turn]]) -> Cost:
    """Return what a way of looking on costs; each pair is the service that was looked at and the bare one."""
    ratios = [watched.cpu / bare.cpu for watched, bare in pairs]
    return Cost(
        way,
        tuple(watched.cpu for watched, _ in pairs),
        tuple(bare.cpu for _, bare in pairs),
        median(ratios),
        (min(ratios), max(ratios)),
        max(watched.lag_p99_ms for watched, _ in pairs),
        sum(watched.gaps for watched, _ in pairs),
    )


async def _turn(course: Course, service: Trial, watch: Watch) -> Turn:
    audio = np.resize(talk(), round(course.seconds * RATE_HZ))
    settle()
    before_s = service.cpu_s()["app"]
    async with looking_on(service.base_url, watch.onlookers):
        reports = await asyncio.gather(*(_caller(service, audio) for _ in range(course.calls)))
        lag = await service.loop_lag()
    used_s = await _quiet_cpu_s(service) - before_s
    if early := [report.sentence for report in reports if report.outcome is not Outcome.CALLER_HUNG_UP]:
        raise TrialFailed(f"{len(early)} of {course.calls} calls ended early: {early[0]}")
    gaps = sum(len(report.underruns) for report in reports)
    return Turn(used_s / course.seconds / course.calls, lag["p99_ms"], gaps)


async def _caller(service: Trial, audio: Samples) -> CallReport:
    await asyncio.sleep(random.uniform(0, ARRIVE_WITHIN_S))  # noqa: S311 - at whatever phase
    return await simulate(CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=audio))


async def _quiet_cpu_s(service: Trial) -> float:
    """Return what the app has used once it has written what it had to write."""
    used_s = service.cpu_s()["app"]
    for _ in range(round(QUIET_WITHIN_S / QUIET_S)):
        await asyncio.sleep(QUIET_S)
        before_s, used_s = used_s, service.cpu_s()["app"]
        if used_s - before_s < QUIET_CPU_S:
            return used_s
    raise TrialFailed(f"the service is not quiet {QUIET_WITHIN_S:.0f} s after the last call")


def _table(course: Course, costs: Sequence[Cost]) -> Table:
    caption = (
        "processor seconds of the app's process per second of one call, and of the bare one beside it, the medians of "
        "the rounds; their ratio, the median, the least and the largest; the event loop's lag, p99; gaps heard"
    )
    title = f"{course.calls} calls of {course.seconds:.0f} s, {course.rounds} rounds: what looks on"
    table = Table("", *("CPU", "bare", "ratio", "from", "to", "lag, ms", "gaps"), title=title, caption=caption)
    for one in costs:
        ratios = [f"{ratio:.2f}" for ratio in (one.ratio, *one.ratios)]
        cpu = [f"{median(seconds):.4f}" for seconds in (one.cpu, one.bare)]
        table.add_row(one.way, *cpu, *ratios, f"{one.lag_p99_ms:.1f}", str(one.gaps))
    return table
