"""`moshi-bridge simulate`: simulated calls to a running service, one or many at random phases."""

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import uvloop
from rich.console import Console
from rich.table import Table

from app.cli.bench.calls import ARRIVE_WITHIN_S
from app.cli.bench.output import ms
from app.cli.doctor.tunnel import running_service
from app.cli.service_client import EXIT_SETTINGS
from app.cli.service_process import ACCOUNT_SID
from app.config import Settings
from app.simulator.call import AS_INTENDED, simulate
from app.simulator.conversation import conversation
from app.simulator.options import CallOptions
from app.simulator.progress import OnProgress, Progress, Pulse, ignore_progress
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import STEADY, Scenario
from app.twilio.signature import checked_base
from workers.logging import mask_userinfo

NOT_ANSWERED = {Outcome.WEBHOOK_FAILED, Outcome.HANDSHAKE_FAILED}
LEVEL_BLOCKS = 20
LEVEL_FLOOR_DBFS = -60.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """What to simulate, and the files for a recording, the figures and a picture of the playout buffer.

    `url` is the service's public URL; None stands for the service at HOST and PORT.
    """

    url: str | None = None
    calls: int = 1
    audio: Path | None = None
    seconds: float | None = None
    line: Scenario = STEADY
    wav: Path | None = None
    json_file: Path | None = None
    picture: Path | None = None


def run_simulation(settings: Settings, wanted: Simulation) -> int:
    """Place the calls and show them; return 0 if all ended as the scenario wants it, 1 if not, 2 without a service."""
    console = Console()
    try:
        base_url, dial_url = _find_service(settings, wanted.url)
        options = CallOptions(
            base_url=base_url,
            dial_url=dial_url,
            auth_token=settings.twilio.auth_token or None,
            account_sid=settings.twilio.account_sid or ACCOUNT_SID,
            audio=wanted.audio or conversation(),
            duration_s=wanted.seconds,
            skip_silence=wanted.line.suppressed,
            line=wanted.line,
        )
        reports = _place(options, wanted.calls, console)
    except (OSError, ValueError) as error:
        print(f"moshi-bridge: {mask_userinfo(str(error))}", file=sys.stderr)
        return EXIT_SETTINGS
    console.print(_table(reports))
    for line in sorted({_reason(report) for report in reports if report.outcome in NOT_ANSWERED}):
        print(f"moshi-bridge: {mask_userinfo(line)}", file=sys.stderr)
    _save(wanted, reports)
    return 0 if all(report.outcome in AS_INTENDED for report in reports) else 1


def _find_service(settings: Settings, url: str | None) -> tuple[str, str | None]:
    """Return the URL that is signed, and the one that is dialled if that is another. Raises ValueError."""
    if url:
        return checked_base(url), None
    service, here = running_service(settings), settings.server.local_url
    if service is None:
        raise ValueError(f"no service answers at {here}: start it (moshi-bridge serve), or give the URL of another")
    return str(service["base_url"]), here


def _reason(report: CallReport) -> str:
    if report.status != HTTPStatus.FORBIDDEN:
        return report.sentence
    return f"{report.sentence}: TWILIO_AUTH_TOKEN, TWILIO_ACCOUNT_SID or the URL is not the service's own"


def _place(options: CallOptions, calls: int, console: Console) -> list[CallReport]:
    with console.status("ringing …") as status:

        def show(progress: Progress) -> None:
            if isinstance(progress, Pulse):
                said, heard = _meter(progress.said_dbfs), _meter(progress.heard_dbfs)
                buffered = f"buffered {progress.buffered_s:.2f} s"
                status.update(f"{progress.at_s:6.1f} s  caller {said}  Moshi {heard}  {buffered}")

        return uvloop.run(_crowd(options, calls, show))


async def _crowd(options: CallOptions, calls: int, show: OnProgress) -> list[CallReport]:
    """Place the calls at random phases; show the first."""

    async def place(number: int) -> CallReport:
        if calls > 1:
            await asyncio.sleep(random.uniform(0, ARRIVE_WITHIN_S))  # noqa: S311 - no secret
        return await simulate(options, ignore_progress if number else show)

    return await asyncio.gather(*(place(number) for number in range(calls)))


def _meter(level_dbfs: float) -> str:
    blocks = round(LEVEL_BLOCKS * max(0.0, 1 - level_dbfs / LEVEL_FLOOR_DBFS))
    return "█" * blocks + "·" * (LEVEL_BLOCKS - blocks)


def _table(reports: Sequence[CallReport]) -> Table:
    table = Table("call", "how it ended")
    for heading in ("after", "first sound", "gaps", "buffered p50", "p99"):
        table.add_column(heading, justify="right")
    for report in reports:
        ending = report.outcome.replace("-", " ") if report.outcome in NOT_ANSWERED else report.sentence
        table.add_row(
            f"…{report.call_sid[-6:]}",
            ending,
            f"{report.ended_s:.1f} s",
            ms(None if report.first_sound_s is None else report.first_sound_s * 1000),
            f"{len(report.underruns)}, {report.underrun_s * 1000:.0f} ms",
            *(ms(report.buffered_percentile_ms(percent)) for percent in (50, 99)),
        )
    return table


def _save(wanted: Simulation, reports: Sequence[CallReport]) -> None:
    if wanted.wav:
        reports[0].save_wav(wanted.wav)
    if wanted.json_file:
        figures = [json.loads(report.to_json()) for report in reports]
        wanted.json_file.write_text(json.dumps(figures if len(figures) > 1 else figures[0], indent=2) + "\n")
    if wanted.picture:
        _draw(reports, wanted.line, wanted.picture)


def _draw(reports: Sequence[CallReport], line: Scenario, path: Path) -> None:
    """Write the playout buffer of each call over time, with gaps and the line's troubles, as a PNG."""
    size = (12, 1.4 * len(reports) + 1)
    figure, rows = plt.subplots(len(reports), 1, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for report, (axes,) in zip(reports, rows, strict=True):
        levels = report.buffer_levels
        axes.step([level.at_s for level in levels], [level.buffered_s * 1000 for level in levels], lw=0.8)
        for gap in report.underruns:
            axes.axvspan(gap.start_s, gap.start_s + gap.length_s, color="black", alpha=0.6)
        for trouble in line.troubles:
            axes.axvspan(trouble.at_s, trouble.end_s, color="red", alpha=0.15, linewidth=0)
        axes.set_title(f"{report.call_sid}: {report.sentence}", fontsize=8, loc="left")
        axes.set_ylabel("buffered, ms", fontsize=8)
    rows[-1][0].set_xlabel("seconds after the stream's start; gaps black, trouble red")
    figure.savefig(path, dpi=100)
    plt.close(figure)
