"""The options of `moshi-bridge bench`. What a bench needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import EXIT_SETTINGS, JsonFile, fail, settings_or_exit
from app.simulator.options import LegKind
from app.simulator.trouble import KNOWN, Scenario, read_scenario

bench = typer.Typer(help="Measure, print a table, and write the same figures with --json.", no_args_is_help=True)

Checkpoint = Annotated[
    str | None, typer.Option(help="Measure this MOSHI_CHECKPOINT; without it, the line test (the caller's echo).")
]
Scenarios = Annotated[
    list[str] | None, typer.Option(help="What goes wrong on the line: a known scenario or a JSON file; repeat it.")
]
Legs = Annotated[
    list[LegKind] | None, typer.Option("--leg", help="A phone, or a chat in PCM or Opus; repeat it. Default: phone.")
]
Seconds = Annotated[float, typer.Option(help="Length of each call.", min=5)]
CallNumbers = Annotated[str, typer.Option(help="Numbers of calls, separated by commas.")]


@bench.command("line")
def line(
    seconds: Seconds = 30.0,
    checkpoint: Checkpoint = None,
    scenario: Scenarios = None,
    leg: Legs = None,
    json_file: JsonFile = None,
) -> None:
    """One simulated call in real time, or one for each scenario: latency, fidelity, gaps, time per stage.

    Several legs are measured at once, so that a busy machine affects all of them alike.
    """
    from app.cli.bench.line import bench_line
    from app.cli.service_process import LOOPBACK

    lines = [find_scenario(name) for name in scenario or ["steady"]]
    for one in lines:
        if one.held or one.engine_late or one.pipeline_lost or one.cut_s:
            raise typer.BadParameter(f"{one.name} can be measured in virtual time only: bench trouble")
    environment = {"MOSHI_CHECKPOINT": checkpoint, "ENGINE": "mlx"} if checkpoint else LOOPBACK
    raise typer.Exit(bench_line(environment, seconds, json_file, lines, leg or [LegKind.PHONE]))


@bench.command("hop")
def hop(seconds: Seconds = 30.0, json_file: JsonFile = None) -> None:
    """A call to a line test, and calls through a Moshi server (ENGINE=remote) that is that line test."""
    from app.cli.bench.hop import bench_hop

    raise typer.Exit(bench_hop(seconds, json_file))


@bench.command("crowd")
def crowd(
    calls: CallNumbers = "1,8,20,50",
    seconds: Seconds = 30.0,
    step_ms: Annotated[float, typer.Option(help="How long the engine takes for a step.", min=0)] = 0.0,
    leg: Legs = None,
    json_file: JsonFile = None,
) -> None:
    """Many simulated calls at once to a line test: the worst latency, gaps, processor time per call.

    So many on each leg; the processor time of all counts for each of them.
    """
    from app.cli.bench.line import bench_crowd

    raise typer.Exit(bench_crowd(_numbers(calls, "--calls"), seconds, step_ms, json_file, leg or [LegKind.PHONE]))


@bench.command("trouble")
def trouble(
    scenario: Scenarios = None,
    json_file: JsonFile = None,
    picture: Annotated[Path | None, typer.Option(help="Draw latency and playout buffer over time here (PNG).")] = None,
) -> None:
    """All known scenarios, or some, against the rules of a call in virtual time: an hour takes seconds."""
    from app.cli.bench.trouble import bench_trouble

    bench_trouble([find_scenario(name) for name in scenario or KNOWN], json_file, picture)


@bench.command("engine")
def engine(
    checkpoint: Annotated[str, typer.Option(help="Whose step is timed.")] = "synthetic:random:tiny:f32",
    rows: CallNumbers = "1,2,4,8,16,32",
    steps: Annotated[int, typer.Option(help="Steps timed for each.", min=5)] = 100,
    context: Annotated[int | None, typer.Option(help="Steps remembered; default: the checkpoint's.")] = None,
    full: Annotated[bool, typer.Option(help="Measure with full KV caches, as after four minutes of a call.")] = False,
    prompts: Annotated[bool, typer.Option(help="Also compute prompts, alone and beside the most calls.")] = False,
    json_file: JsonFile = None,
) -> None:
    """The batched step at several numbers of calls, against moshi_mlx's own LmGen in the same run."""
    from app.cli.bench.models import bench_engine

    options = {"checkpoint": checkpoint, "steps": steps, "context": context, "full": full, "prompts": prompts}
    raise typer.Exit(bench_engine(settings_or_exit(), _numbers(rows, "--rows"), json_file, options))


@bench.command("codec")
def codec(
    rows: CallNumbers = "1,2,4,8,16",
    threads: Annotated[str, typer.Option(help="Numbers of threads, separated by commas.")] = "1,2",
    frames: Annotated[int, typer.Option(help="Frames timed for each.", min=5)] = 40,
    json_file: JsonFile = None,
) -> None:
    """Mimi's two directions at several numbers of calls: rustymimi and ours, time, memory, calls in real time."""
    from app.cli.bench.models import bench_codec

    numbers = {"rows": _numbers(rows, "--rows"), "threads": _numbers(threads, "--threads"), "frames": frames}
    raise typer.Exit(bench_codec(settings_or_exit(), numbers, json_file))


@bench.command("search")
def search(
    calls: Annotated[int, typer.Option(help="How many calls are searched.", min=1)] = 10_000, json_file: JsonFile = None
) -> None:
    """Search in what was said in many calls, made up, in a SQLite file of its own."""
    from app.cli.bench.search import bench_search

    bench_search(calls, json_file)


def find_scenario(name: str) -> Scenario:
    """Return a known scenario, or read it from a file. Ends the command if there is none."""
    try:
        return KNOWN.get(name) or read_scenario(Path(name))
    except (OSError, ValueError) as error:
        raise typer.Exit(fail(f"{error}; known scenarios: {', '.join(KNOWN)}", EXIT_SETTINGS)) from error


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"write {option} 1,2,4") from error
