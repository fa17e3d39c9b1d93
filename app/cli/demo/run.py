"""`moshi-bridge demo`: two simulated calls and what comes of them: WAV files, a picture, a table, a checklist."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from app.calls.transcript import Side, Word, turns_of
from app.cli.bench.calls import Load
from app.cli.bench.line import MeasuredCalls, calls_table, measure_calls
from app.cli.bench.output import write_json
from app.cli.call_tables import clock_of
from app.cli.demo.checklist import Point, check_call
from app.cli.demo.expectation import expect
from app.cli.doctor.survey import survey_device
from app.cli.plots import draw_call
from app.cli.service_process import LOOPBACK, ServiceFailed, start_service
from app.config import Settings
from app.simulator.conversation import conversation, talk
from app.simulator.progress import Progress, Pulse
from app.simulator.report import CallReport
from app.simulator.wav import Samples
from app.telemetry.call_log.webvtt import VOICES
from app.twilio.events import RATE_HZ

SYNTHETIC = "synthetic:script"
PERSONA, GREETING = "ada", "Hello! I'm Ada from Northside Dental, how can I help you?"
"""Ada of `deploy/personas/`, with words that the synthetic checkpoint has recorded."""
NVIDIA_CARD = Path("/dev/nvidia0")
"""The first card, where NVIDIA's driver for Linux runs."""


@dataclass(frozen=True, slots=True)
class Choice:
    checkpoint: str
    why: str


def choose(settings: Settings, asked: str | None, device: Mapping[str, Any], has_card: bool) -> Choice:
    """Choose Kyutai's weights where MLX has a GPU for them, else the synthetic checkpoint.

    `device` is the result of `survey_device`; `has_card` tells whether the computer has an NVIDIA card.
    """
    if asked:
        return Choice(asked, f"you asked for {asked}")
    if device.get("is_gpu"):
        return Choice(settings.model.checkpoint, f"{settings.model.checkpoint}, fetched if need be")
    if error := device.get("mlx_error"):
        return Choice(SYNTHETIC, f"MLX cannot be used here ({error})")
    if has_card:
        why = "this computer has an NVIDIA card, but MLX was installed without CUDA; for Moshi itself type"
        return Choice(SYNTHETIC, f"{why}: make demo ACCELERATOR=cuda13")
    why = "this machine has neither Apple silicon nor CUDA, and Moshi's 7 billion weights need one to keep up"
    return Choice(SYNTHETIC, why)


def how_to_talk(checkpoint: str, settings: Settings) -> str:
    """Return what to type to talk with who has answered."""
    chosen = "" if checkpoint == settings.model.checkpoint else f"MOSHI_CHECKPOINT={checkpoint} "
    page = f"http://127.0.0.1:{settings.server.port}/talk"
    return f"type {chosen}.venv/bin/moshi-bridge serve, then open {page} or type .venv/bin/moshi-bridge talk"


def write_persona(folder: Path) -> dict[str, str]:
    """Write Ada's file into a folder of personas below this one; return the settings with which she answers."""
    personas = (folder / "personas").resolve()
    personas.mkdir(parents=True, exist_ok=True)
    (personas / f"{PERSONA}.toml").write_text(f'greeting = "{GREETING}"\n')
    return {"PERSONAS_DIR": str(personas), "PERSONA": PERSONA, "GREETING_LISTENS": "false"}


def run_demo(settings: Settings, asked: str | None, folder: Path) -> int:
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    choice = choose(settings, asked, survey_device(), NVIDIA_CARD.exists())
    try:
        return uvloop.run(_run(console, settings, folder, choice))
    except ServiceFailed as error:
        console.print(f"[bold red]{error}[/] (the service's log is in {folder}/*.log)")
        return 1


async def _run(console: Console, settings: Settings, folder: Path, choice: Choice) -> int:
    console.print("[bold]1 of 2: the line test.[/] No model; the caller hears their own echo.")
    line = await _call(console, folder / "line", LOOPBACK, talk())
    console.print("[bold]2 of 2: the full pipeline.[/]")
    try:
        full = await _call_pipeline(console, folder, choice)
    except ServiceFailed as error:
        if choice.checkpoint == SYNTHETIC:
            raise
        console.print(f"[yellow]{error}[/]")
        choice = Choice(SYNTHETIC, str(error))
        full = await _call_pipeline(console, folder, choice)
    picture = folder / "call.png"
    [report], [record] = full.reports, full.records
    draw_call(report, record, f"A call answered by {choice.checkpoint}", picture)
    console.print(calls_table("One simulated call, as the caller heard it", {"line test": line, "full pipeline": full}))
    for turn in turns_of([Word(Side(speaker), *rest) for speaker, *rest in record["words"]]):
        said = f"[bold]{VOICES[turn.speaker]}[/] [italic]{escape(turn.text)}[/]"
        console.print(f"{clock_of(turn.start_s):>7} {said}", highlight=False)
    points = _check(console, report, record) if choice.checkpoint == SYNTHETIC else []
    console.print(f"\nHear it: {folder}/line.wav, {folder}/call.wav (caller left, Moshi right)")
    console.print(f"See it:  {picture}")
    console.print(f"Talk yourself: {how_to_talk(choice.checkpoint, settings)}", highlight=False, soft_wrap=True)
    return 0 if all(point.passed or point.timed for point in points) else 1


async def _call_pipeline(console: Console, folder: Path, choice: Choice) -> MeasuredCalls:
    if choice.checkpoint == SYNTHETIC:
        console.print(
            f"A synthetic checkpoint speaks, not Moshi: {choice.why}. It has Moshi's architecture, files and code "
            "path, but says recorded words and phrases."
        )
    else:
        console.print(f"Moshi speaks: {choice.why}.")
    environment = {"ENGINE": "mlx", "CODEC": "auto", "MOSHI_CHECKPOINT": choice.checkpoint}
    if choice.checkpoint == SYNTHETIC:
        environment["TRANSCRIBE"] = "synthetic:stt"
    return await _call(console, folder / "call", environment | write_persona(folder), conversation())


async def _call(console: Console, path: Path, environment: dict[str, str], audio: Samples) -> MeasuredCalls:
    length_s = len(audio) / RATE_HZ
    with Bars(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bars:
        task = bars.add_task("starting the service", total=length_s)

        def show(progress: Progress) -> None:
            if isinstance(progress, Pulse):
                bars.update(task, completed=progress.at_s, description="the call is on")

        async with start_service(environment, path.with_suffix(".log")) as service:
            calls = await measure_calls(service, Load(audio), environment == LOOPBACK, show)
        bars.update(task, completed=length_s, description="the call is over")
    calls.reports[0].save_wav(path.with_suffix(".wav"))
    write_json(path.with_suffix(".json"), calls.reports[0].figures())
    return calls


def _check(console: Console, report: CallReport, record: dict[str, Any]) -> list[Point]:
    points = check_call(report, record, expect(report.said, record, GREETING))
    for number, point in enumerate(points, 1):
        mark = "[green]✓[/]" if point.passed else "[yellow]~[/]" if point.timed else "[bold red]✗[/]"
        console.print(f"{mark} {number:2} {point.title}: {point.detail}", highlight=False)
    if any(point.timed and not point.passed for point in points):
        counts = record["counts"]
        found = f"{counts.get('frames_dropped', 0)} frames were dropped, {counts.get('overruns', 0)} took too long"
        console.print(f"[yellow]~[/] depends on timing: {found}. Was this machine busy with something else?")
    return points
