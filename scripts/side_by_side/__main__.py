"""Measure this service's line test, a bare server and Pipecat with the same simulated caller, in one run.

    .venv/bin/python -m scripts.side_by_side                      all of it: about 12 minutes
    .venv/bin/python -m scripts.side_by_side --json FILE          the same figures in a file as well
    .venv/bin/python -m scripts.side_by_side --seconds 10 --calls 1 --calls 8
    .venv/bin/python -m scripts.side_by_side --without-pipecat    needs no package index

The first run makes a virtual environment for Pipecat in `--environment` from the package index that pip (or uv) is set
up for; later runs use it again. Where it cannot be made the table says so and the others are measured all the same.

What is measured. On every side the caller hears himself. He speaks without a pause, `--seconds` long, once alone and
once in each crowd of `--calls`; then once more alone, and 15 s into that call his packets are held back for 0.6 s and
arrive all at once. Each side runs in a process of its own, started anew for each measurement and warmed up by one short
call; CPU is what that process and its children took during the calls. The simulator runs on the same machine: how late
it was itself is in the table, and figures from a machine that has other things to do are worth little.
"""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.simulator import progress as call_progress
from scripts.side_by_side import environment, sides
from scripts.side_by_side.calls import Load
from scripts.side_by_side.run import STALL, Findings, Study, Tell
from scripts.side_by_side.tables import table

QUIET_LOAD = 1.0
REDRAWN_HZ = 2.0
"""Drawing takes time from the simulator."""


def main(
    seconds: Annotated[float, typer.Option(min=5, help="How long the caller speaks.")] = 60.0,
    calls: Annotated[list[int], typer.Option(min=1, help="Calls at once; may be given again.")] = [1, 8, 20],  # noqa: B006
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    environment_path: Annotated[
        Path, typer.Option("--environment", help="Where Pipecat's virtual environment is or is to be made.")
    ] = Path("build/side-by-side"),
    without_pipecat: Annotated[bool, typer.Option(help="Leave Pipecat out.")] = False,
) -> None:
    """Call this service's line test, a bare server and Pipecat in turn, and show the figures side by side."""
    console = Console()
    machine: dict[str, Any] = {"platform": platform.platform(), "python": platform.python_version()}
    machine |= {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    if machine["load_before"] > QUIET_LOAD:
        console.print(
            f"[yellow]This machine is busy (load average {machine['load_before']:.1f}); so are the figures.[/]"
        )
    run = Study([sides.bare_server(), sides.line_test()], [Load(many, seconds) for many in calls])
    if not without_pipecat:
        machine["versions"] = _add_pipecat(run, environment_path, console)
    _measure(run, console)
    machine["load_after"] = os.getloadavg()[0]
    console.print(table(run.found, sides.BARE_SERVER, STALL.length_s))
    console.print("CPU: processor seconds of the server's process and its children.", machine)
    if json_path:
        json_path.write_text(json.dumps({"machine": machine, "sides": _as_json(run.found)}, indent=2) + "\n")


def _add_pipecat(run: Study, folder: Path, console: Console) -> dict[str, str]:
    """Make the environment; what keeps Pipecat from taking part becomes a finding."""
    try:
        with console.status("Pipecat's virtual environment (minutes, the first time) …"):
            python = environment.make(folder.absolute())
            versions = environment.versions(python)
    except environment.NoEnvironment as error:
        run.found[sides.PIPECAT] = Findings(failed=[f"no environment: {error}"])
        return {}
    run.sides.append(sides.pipecat(python))
    run.found[sides.PIPECAT] = Findings()
    return versions


def _measure(run: Study, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=REDRAWN_HZ) as progress:
        uvloop.run(run.measure(_teller(progress, run.length_s)))


def _teller(progress: Progress, total_s: float) -> Tell:
    """Move one bar on with every call that is listened to."""
    task = progress.add_task("", total=total_s)

    def tell(title: str) -> call_progress.OnProgress:
        start_s = progress.tasks[0].completed
        progress.update(task, description=title)

        def moved(news: call_progress.Progress) -> None:
            if isinstance(news, call_progress.Pulse | call_progress.CallEnded):
                progress.update(task, completed=start_s + news.at_s)

        return moved

    return tell


def _as_json(found: dict[str, Findings]) -> dict[str, Any]:
    return {name: asdict(findings) for name, findings in found.items()}


if __name__ == "__main__":
    typer.run(main)
