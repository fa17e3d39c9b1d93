"""`moshi-bridge simulate`: one simulated call to a service that runs already."""

from pathlib import Path

import uvloop
from rich.console import Console

from app.config import Settings
from app.demo.conversation import conversation
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, Pulse
from app.simulator.report import CallReport, Outcome
from app.simulator.trouble import Scenario
from app.trial import ACCOUNT_SID

LEVEL_BLOCKS = 20
LEVEL_FLOOR_DBFS = -60.0


def run_simulation(
    settings: Settings,
    url: str,
    audio: Path | None,
    seconds: float | None,
    wav: Path | None,
    json_file: Path | None,
    line: Scenario,
) -> int:
    """Place the call, show it, save it; return 0 if it lasted until the caller hung up."""
    console = Console()
    options = CallOptions(
        base_url=url,
        auth_token=settings.twilio_auth_token or None,
        account_sid=settings.twilio_account_sid or ACCOUNT_SID,
        audio=audio or conversation(),
        duration_s=seconds,
        skip_silence=line.suppressed,
        line=line,
    )
    try:
        report = _place(options, console)
    except (OSError, ValueError) as error:
        console.print(f"moshi-bridge: {error}")
        return 2
    _tell(console, report)
    if wav:
        report.save_wav(wav)
    if json_file:
        report.save_json(json_file)
    return 0 if report.outcome is Outcome.CALLER_HUNG_UP else 1


def _place(options: CallOptions, console: Console) -> CallReport:
    with console.status("ringing …") as status:

        def show(progress: Progress) -> None:
            if isinstance(progress, Pulse):
                said, heard = _meter(progress.said_dbfs), _meter(progress.heard_dbfs)
                status.update(f"{progress.at_s:6.1f} s  caller {said}  Moshi {heard}  lead {progress.lead_s:.2f} s")

        return uvloop.run(simulate(options, show))


def _meter(level_dbfs: float) -> str:
    blocks = round(LEVEL_BLOCKS * max(0.0, 1 - level_dbfs / LEVEL_FLOOR_DBFS))
    return "█" * blocks + "·" * (LEVEL_BLOCKS - blocks)


def _tell(console: Console, report: CallReport) -> None:
    console.print(f"{report.call_sid}: {report.sentence} after {report.ended_s:.1f} s")
    if report.first_sound_s is not None:
        console.print(f"first sound after {report.first_sound_s * 1000:.0f} ms, {len(report.underruns)} underruns")
