"""`moshi-bridge bench hostile`: two callers talk while strangers besiege the service.

A service of its own answers two simulated calls with their echo. Quiet and siege take turns: in each siege 500
connections that say nothing and 500 that send garbage set on the service, from another process, and a third caller
rings. What the two hear is compared, window by window of a quarter of a second, all quiet rounds together with all
rounds of siege; how much the quiet rounds differ among themselves tells how far the machine can be trusted.
"""

import asyncio
import contextlib
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from app.bench.line import LOOPBACK
from app.commands.trial import ACCOUNT_SID, AUTH_TOKEN, Trial, TrialFailed, trial
from app.demo.conversation import talk
from app.simulator.call import simulate
from app.simulator.measure import mouth_to_ear_ms
from app.simulator.options import CallOptions
from app.simulator.report import CallReport, Outcome, percentile_ms
from app.simulator.stream import PACKET_MS
from app.twilio.events import RATE_HZ
from workers.heap import settle

SETTLED_S = 5.0
"""What the first seconds of a call are like is not compared."""
EDGE_S = 1.0
"""Nor are the first and last of a round."""
WINDOW_S = 0.25
PACKET_S = PACKET_MS / 1000
NEWCOMER_S = 5.0
GOAL_MS = 20.0

Part = tuple[float, float]
"""A part of the calls, from and to in seconds."""


@dataclass(frozen=True, slots=True)
class Siege:
    """How many strangers of each sort, how soon they come again; how many rounds of quiet and siege, how long each."""

    silent: int
    noisy: int
    pause_s: float
    rounds: int
    seconds: float

    @property
    def calls_s(self) -> float:
        """How long the two calls last."""
        return SETTLED_S + self.rounds * 2 * self.seconds


@dataclass(frozen=True, slots=True)
class Heard:
    """Mouth-to-ear delay of both callers together, in milliseconds, and gaps heard."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    windows: int
    gaps: int


@dataclass(frozen=True, slots=True)
class HostileFigures:
    """What came of it. `late_…` is how late the simulator itself, which shares the machine, sent its packets, p99.

    `newcomers_s` is how long after his stream opened each caller who rang during a siege heard himself, None for never.
    `strangers` counts connections; `cpu` is processor seconds of the service's process per second, quiet and besieged.
    """

    quiet: Heard
    besieged: Heard
    quiet_p99s_ms: tuple[float, ...]
    late_quiet_ms: float
    late_besieged_ms: float
    newcomers_s: tuple[float | None, ...]
    strangers: dict[str, int]
    descriptors: int
    cpu: tuple[float, float]

    @property
    def difference_ms(self) -> float:
        """By how much the delay's p99 grew."""
        return self.besieged.p99_ms - self.quiet.p99_ms


@dataclass
class _Notes:
    """What is noted as the rounds go; parts are on our clock."""

    quiet: list[Part] = field(default_factory=list)
    besieged: list[Part] = field(default_factory=list)
    quiet_cpu: list[float] = field(default_factory=list)
    besieged_cpu: list[float] = field(default_factory=list)
    newcomers: list[CallReport] = field(default_factory=list)
    strangers: Counter[str] = field(default_factory=Counter)
    descriptors: int = 0


def bench_hostile(siege: Siege, json_path: Path | None) -> int:
    """Run, print the table, write the file; return the exit status: 1 when the goal is missed."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status(f"two calls of {siege.calls_s:.0f} s …"):
        try:
            found = uvloop.run(_run(siege, Path(folder) / "service.log"))
        except TrialFailed as error:
            console.print(f"[red]{error}[/]")
            return 1
    console.print(_table(found))
    if json_path:
        figures = {"machine": platform.platform(), "siege": asdict(siege), **asdict(found)}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return int(found.difference_ms > GOAL_MS)


async def _run(siege: Siege, log: Path) -> HostileFigures:
    notes = _Notes()
    async with trial({**LOOPBACK, "MAX_CALLS": "3"}, log) as service:
        settle()
        began_s = time.monotonic()
        callers = [asyncio.create_task(_caller(service, siege.calls_s)) for _ in range(2)]
        await asyncio.sleep(SETTLED_S)
        for number in range(siege.rounds):
            await _round(service, siege, notes, began_s + SETTLED_S + number * 2 * siege.seconds)
        reports = await asyncio.gather(*callers)
    if early := [report.sentence for report in reports if report.outcome is not Outcome.CALLER_HUNG_UP]:
        raise TrialFailed(f"a call ended early: {early[0]}")
    return _figures(reports, notes, began_s)


async def _round(service: Trial, siege: Siege, notes: _Notes, from_s: float) -> None:
    """Let quiet and siege last so long each, from that moment of our clock on."""
    siege_s, over_s = from_s + siege.seconds, from_s + 2 * siege.seconds
    before_s = service.cpu_s()["app"]
    await asyncio.sleep(siege_s - time.monotonic())
    between_s = service.cpu_s()["app"]
    async with _besieged(service, siege, notes):
        await asyncio.sleep(siege.seconds / 3)
        notes.newcomers.append(await _caller(service, NEWCOMER_S))
        notes.descriptors = max(notes.descriptors, psutil.Process(service.process_id).num_fds())
        await asyncio.sleep(over_s - EDGE_S - time.monotonic())
    after_s = service.cpu_s()["app"]
    notes.quiet.append((from_s + EDGE_S, siege_s))
    notes.besieged.append((siege_s + EDGE_S, over_s - EDGE_S))
    notes.quiet_cpu.append((between_s - before_s) / siege.seconds)
    notes.besieged_cpu.append((after_s - between_s) / siege.seconds)


async def _caller(service: Trial, seconds: float) -> CallReport:
    audio = np.resize(talk(), round(seconds * RATE_HZ))
    return await simulate(CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=audio))


@contextlib.asynccontextmanager
async def _besieged(service: Trial, siege: Siege, notes: _Notes) -> AsyncIterator[None]:
    """Let the strangers come until the block ends."""
    port = str(urlsplit(service.base_url).port)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.bench.strangers", port),
        *(str(siege.silent), str(siege.noisy), str(siege.pause_s)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.terminate()
        told, _ = await process.communicate()
        notes.strangers.update(json.loads(told or b"{}"))


def _figures(reports: Sequence[CallReport], notes: _Notes, began_s: float) -> HostileFigures:
    """Put it together; the calls began at `began_s` of the clock by which the rounds were noted, or a little later."""
    quiet, besieged = (
        [(from_s - began_s, to_s - began_s) for from_s, to_s in parts] for parts in (notes.quiet, notes.besieged)
    )
    return HostileFigures(
        quiet=heard_in(reports, quiet),
        besieged=heard_in(reports, besieged),
        quiet_p99s_ms=tuple(heard_in(reports, [part]).p99_ms for part in quiet),
        late_quiet_ms=_late_ms(reports, quiet),
        late_besieged_ms=_late_ms(reports, besieged),
        newcomers_s=tuple(
            one.first_sound_s if one.outcome is Outcome.CALLER_HUNG_UP else None for one in notes.newcomers
        ),
        strangers=dict(notes.strangers),
        descriptors=notes.descriptors,
        cpu=(float(np.mean(notes.quiet_cpu)), float(np.mean(notes.besieged_cpu))),
    )


def heard_in(reports: Sequence[CallReport], parts: Sequence[Part]) -> Heard:
    """Return what the callers of these reports heard in those parts of their calls; raises TrialFailed for nothing."""
    windows = [window for report in reports for window in mouth_to_ear_ms(report.said, report.heard, WINDOW_S).windows]
    delays_ms = [window.delay_ms for window in windows if _is_in(window.at_s, parts)]
    if not delays_ms:
        raise TrialFailed("the callers did not hear themselves")
    gaps = sum(_is_in(gap.start_s, parts) for report in reports for gap in report.underruns)
    p50, p99, worst = (float(value) for value in np.percentile(delays_ms, [50, 99, 100]))
    return Heard(p50, p99, worst, len(delays_ms), gaps)


def _late_ms(reports: Sequence[CallReport], parts: Sequence[Part]) -> float:
    tallies = [stream.tally for report in reports for stream in report.streams]
    late_s = [
        late for tally in tallies for number, late in enumerate(tally.lateness_s) if _is_in(number * PACKET_S, parts)
    ]
    return percentile_ms(late_s, 99) or 0.0


def _is_in(at_s: float, parts: Sequence[Part]) -> bool:
    return any(from_s <= at_s < to_s for from_s, to_s in parts)


def _table(found: HostileFigures) -> Table:
    verdict = "kept" if found.difference_ms <= GOAL_MS else "missed"
    alone = ", ".join(f"{p99:.0f}" for p99 in found.quiet_p99s_ms)
    newcomers = ", ".join("never" if sound_s is None else f"{sound_s:.2f} s" for sound_s in found.newcomers_s)
    counts = ", ".join(f"{count} {name}" for name, count in found.strangers.items())
    caption = (
        f"p99 {found.difference_ms:+.1f} ms, the goal of {GOAL_MS:+.0f} ms is {verdict}; p99 of each quiet round: "
        f"{alone}; connections of strangers: {counts}; the service had {found.descriptors} descriptors; callers who "
        f"rang meanwhile heard themselves after {newcomers}"
    )
    table = Table(title="Two callers while strangers besiege the service", caption=caption)
    for heading in ("", "p50 ms", "p99 ms", "worst ms", "windows", "gaps", "simulator late p99 ms", "app CPU"):
        table.add_column(heading, justify="right")
    rows = (("quiet", found.quiet, found.late_quiet_ms), ("besieged", found.besieged, found.late_besieged_ms))
    for (name, heard, late_ms), cpu in zip(rows, found.cpu, strict=True):
        delays = [f"{value:.1f}" for value in (heard.p50_ms, heard.p99_ms, heard.worst_ms)]
        table.add_row(name, *delays, str(heard.windows), str(heard.gaps), f"{late_ms:.1f}", f"{cpu:.3f}")
    return table
