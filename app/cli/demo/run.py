"""Two simulated calls and what comes of them: WAV files, a picture, a table, a checklist."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from app.cli.bench.line import LOOPBACK, LineRun, line_table, measure_call
from app.cli.demo.checklist import Point, check_call
from app.cli.demo.expectation import expect
from app.cli.demo.picture import draw_call
from app.cli.doctor.survey import survey_device
from app.cli.service_process import ServiceFailed, start_service
from app.config import Settings
from app.simulator.conversation import conversation, talk
from app.simulator.progress import Progress, Pulse
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ

STAND_IN = "synthetic:script"
NVIDIA_CARD = Path("/dev/nvidia0")
"""The first card, where NVIDIA's driver for Linux runs."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which checkpoint speaks, and why in words."""

    checkpoint: str
    why: str


def choose(settings: Settings, asked: str | None, device: Mapping[str, Any], has_card: bool) -> Choice:
    """Choose Kyutai's weights where MLX has a GPU for them, else the stand-in.

    `device` is what `survey_device` says; `has_card` tells whether the computer has an NVIDIA card.
    """
    if asked:
        return Choice(asked, f"you asked for {asked}")
    if device.get("is_gpu"):
        return Choice(settings.moshi_checkpoint, f"{settings.moshi_checkpoint}, fetched if need be")
    if error := device.get("mlx_error"):
        return Choice(STAND_IN, f"MLX cannot be used here ({error})")
    if has_card:
        why = "this computer has an NVIDIA card, but MLX was installed without CUDA; for Moshi itself type"
        return Choice(STAND_IN, f"{why}: make demo ACCELERATOR=cuda13")
    why = "this machine has neither Apple silicon nor CUDA, and Moshi's 7 billion weights need one to keep up"
    return Choice(STAND_IN, why)


def run_demo(settings: Settings, asked: str | None, folder: Path) -> int:
    """Run the demo into `folder`; return 0 if all went well."""
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    choice = choose(settings, asked, survey_device(), NVIDIA_CARD.exists())
    try:
        return uvloop.run(_Demo(console, folder).run(choice))
    except ServiceFailed as error:
        console.print(f"[bold red]{error}[/] (the service's own words are in {folder}/*.log)")
        return 1


class _Demo:
    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder

    async def run(self, choice: Choice) -> int:
        self._console.print("[bold]1 of 2: the line test.[/] No model; the caller hears himself.")
        line = await self._call("line", LOOPBACK, talk(), echoes=True)
        self._console.print(f"[bold]2 of 2: the full pipeline.[/] {self._introduction(choice)}")
        environment = {"ENGINE": "mlx", "CODEC": "auto", "MOSHI_CHECKPOINT": choice.checkpoint}
        try:
            full = await self._call("call", environment, conversation(), echoes=False)
        except ServiceFailed as error:
            if choice.checkpoint == STAND_IN:
                raise
            self._console.print(f"[yellow]{error}[/]")
            return await self.run_stand_in(line, str(error))
        return self._show(line, full, choice)

    async def run_stand_in(self, line: LineRun, why: str) -> int:
        choice = Choice(STAND_IN, why)
        self._console.print(self._introduction(choice))
        environment = {"ENGINE": "mlx", "CODEC": "auto", "MOSHI_CHECKPOINT": STAND_IN}
        return self._show(line, await self._call("call", environment, conversation(), echoes=False), choice)

    def _introduction(self, choice: Choice) -> str:
        if choice.checkpoint != STAND_IN:
            return f"Moshi speaks: {choice.why}."
        return (
            f"A stand-in speaks, not Moshi: {choice.why}. It has Moshi's architecture, files and code path, "
            "but says recorded phrases."
        )

    async def _call(self, name: str, environment: dict[str, str], audio: Samples, echoes: bool) -> LineRun:
        length_s = len(audio) / RATE_HZ
        with Bars(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console) as bars:
            task = bars.add_task("starting the service", total=length_s)

            def show(progress: Progress) -> None:
                if isinstance(progress, Pulse):
                    bars.update(task, completed=progress.at_s, description="the call is on")

            async with start_service(environment, self._folder / f"{name}.log") as service:
                run = await measure_call(service, audio, echoes, show)
            bars.update(task, completed=length_s, description="the call is over")
        run.report.save_wav(self._folder / f"{name}.wav")
        run.report.save_json(self._folder / f"{name}.json")
        return run

    def _show(self, line: LineRun, full: LineRun, choice: Choice) -> int:
        points = self._check(full) if choice.checkpoint == STAND_IN else []
        greeting_s = max(0.0, full.record["takeover_s"])
        picture = self._folder / "call.png"
        draw_call(full.report, full.record, f"A call answered by {choice.checkpoint}", greeting_s, picture)
        self._console.print(line_table({"line test": line.figures, "full pipeline": full.figures}))
        self._console.print(f"Moshi said: [italic]{full.record['transcript']}[/]", highlight=False)
        for number, point in enumerate(points, 1):
            mark = "[green]✓[/]" if point.passed else "[yellow]~[/]" if point.timed else "[bold red]✗[/]"
            self._console.print(f"{mark} {number:2} {point.title}: {point.detail}", highlight=False)
        if any(point.timed and not point.passed for point in points):
            self._console.print("[yellow]~[/] is a matter of time: was this machine busy with something else?")
        self._tell_files()
        return 0 if all(point.passed or point.timed for point in points) else 1

    def _check(self, full: LineRun) -> list[Point]:
        return check_call(full.report, full.record, expect(full.report.said, full.record))

    def _tell_files(self) -> None:
        self._console.print(f"\nHear it: {self._folder}/line.wav, {self._folder}/call.wav (caller left, Moshi right)")
        self._console.print(f"See it:  {self._folder}/call.png")
