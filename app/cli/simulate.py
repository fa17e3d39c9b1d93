"""`moshi-bridge simulate`: simulated calls to a running service, one or many at random phases."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from app.cli.bench.calls import simulate_calls
from app.cli.bench.output import ms, write_json
from app.cli.call_tables import sid_end
from app.cli.meter import bar
from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.cli.plots import draw_buffers
from app.cli.service_client import running_service
from app.cli.service_process import ACCOUNT_SID
from app.config import Settings
from app.simulator.call import AS_INTENDED
from app.simulator.conversation import conversation
from app.simulator.options import CALLED_NUMBER, CallOptions
from app.simulator.progress import Progress, Pulse
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import STEADY, Scenario
from app.twilio.signature import checked_base
from workers.logging import mask_userinfo

NOT_ANSWERED = {Outcome.WEBHOOK_FAILED, Outcome.HANDSHAKE_FAILED}


@dataclass(frozen=True, slots=True)
class Simulation:
    """What to simulate, and the files for a recording, the figures and a picture of the playout buffer.

    `url` is the service's public URL; None stands for the service at HOST and PORT. `to` is the number called.
    """

    url: str | None = None
    calls: int = 1
    audio: Path | None = None
    seconds: float | None = None
    line: Scenario = STEADY
    wav: Path | None = None
    json_file: Path | None = None
    picture: Path | None = None
    to: str | None = None


def run_simulation(settings: Settings, wanted: Simulation) -> int:
    """Place the calls and show them; return 0 if all ended as the scenario wants it, 1 if not.

    2 without a service, or if a file cannot be written.
    """
    console = Console()
    try:
        reports = _place(_options(settings, wanted), wanted.calls, console)
    except (OSError, ValueError) as error:
        return fail(mask_userinfo(str(error)), EXIT_SETTINGS)
    console.print(_table(reports))
    for reason in sorted({_reason(report) for report in reports if report.outcome in NOT_ANSWERED}):
        fail(mask_userinfo(reason), EXIT_FAILED)
    try:
        _save(wanted, reports)
    except (OSError, ValueError) as error:
        return fail(error, EXIT_SETTINGS)
    return 0 if all(report.outcome in AS_INTENDED for report in reports) else EXIT_FAILED


def _options(settings: Settings, wanted: Simulation) -> CallOptions:
    base_url, dial_url = _find_service(settings, wanted.url)
    return CallOptions(
        base_url=base_url,
        dial_url=dial_url,
        auth_token=settings.twilio.auth_token or None,
        account_sid=settings.twilio.account_sid or ACCOUNT_SID,
        audio=wanted.audio or conversation(),
        to_number=wanted.to or CALLED_NUMBER,
        duration_s=wanted.seconds,
        line=wanted.line,
    )


def _find_service(settings: Settings, url: str | None) -> tuple[str, str | None]:
    """Return the URL that is signed, and the one that is dialled if that is another. Raises ValueError."""
    if url:
        return checked_base(url), None
    service, here = running_service(settings), settings.server.local_url
    if service is None:
        raise ValueError(f"no service answers at {here}: start it (moshi-bridge serve), or give the URL of another")
    return str(service["base_url"]), here


def _place(options: CallOptions, calls: int, console: Console) -> list[CallReport]:
    with console.status("ringing …") as status:

        def show(progress: Progress) -> None:
            if isinstance(progress, Pulse):
                said, heard = bar(progress.said_dbfs), bar(progress.heard_dbfs)
                buffered = f"buffered {progress.buffered_s:.2f} s"
                status.update(f"{progress.at_s:6.1f} s  caller {said}  Moshi {heard}  {buffered}")

        return uvloop.run(simulate_calls(options, calls, show))


def _reason(report: CallReport) -> str:
    if report.status != HTTPStatus.FORBIDDEN:
        return report.sentence
    return f"{report.sentence}: TWILIO_AUTH_TOKEN, TWILIO_ACCOUNT_SID or the URL is not the service's own"


def _table(reports: Sequence[CallReport]) -> Table:
    table = Table("call", "how it ended")
    for heading in ("after", "first sound", "gaps", "buffered p50", "p99"):
        table.add_column(heading, justify="right")
    for report in reports:
        table.add_row(
            sid_end(report.call_sid),
            report.outcome.replace("-", " ") if report.outcome in NOT_ANSWERED else report.sentence,
            f"{report.ended_s:.1f} s",
            ms(None if report.first_sound_s is None else report.first_sound_s * 1000),
            f"{len(report.underruns)}, {report.underrun_s * 1000:.0f} ms",
            *(ms(report.buffered_percentile_ms(percent)) for percent in (50, 99)),
        )
    return table


def _save(wanted: Simulation, reports: Sequence[CallReport]) -> None:
    if wanted.wav:
        reports[0].save_wav(wanted.wav)
    figures = [report.figures() for report in reports]
    write_json(wanted.json_file, figures if len(figures) > 1 else figures[0])
    if wanted.picture:
        draw_buffers(reports, wanted.line, wanted.picture)
