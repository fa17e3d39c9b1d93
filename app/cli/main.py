"""The command `moshi-bridge`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.config import Settings, SettingsError, read_settings
from app.logging import LogLevel, start_logging
from app.server.signals import interrupt_on_stop
from workers.logging import log_uncaught_exceptions

if TYPE_CHECKING:
    from app.simulator.trouble import Scenario

cli = typer.Typer(
    help="Answers phone calls with Moshi, Kyutai's full-duplex speech model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they show the values of variables: tokens, numbers
)

EXIT_SETTINGS = 2
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


def main() -> None:
    """Run the command line."""
    interrupt_on_stop()
    cli()


def _settings(url: str | None = "", **overrides: object) -> Settings:
    """Read the settings; with `url` None the command asks the service at HOST and PORT. Ends the command if wrong."""
    try:
        settings = read_settings(**overrides)
        if url is None:
            settings.require_host()
        return settings
    except SettingsError as error:
        for line in str(error).splitlines():
            print(f"moshi-bridge: {line}", file=sys.stderr)
        raise typer.Exit(EXIT_SETTINGS) from error


@cli.callback()
def _about() -> None:
    """Answers phone calls with Moshi, Kyutai's full-duplex speech model. Start with `moshi-bridge demo`."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (PORT).")] = None,
    tunnel: Annotated[
        bool | None, typer.Option("--tunnel/--no-tunnel", help="Take calls through cloudflared (TUNNEL).")
    ] = None,
    set_number: Annotated[
        bool | None,
        typer.Option("--set-number/--leave-number", help="Point TWILIO_PHONE_NUMBER here meanwhile (SET_NUMBER)."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="What to log.", case_sensitive=False)] = LogLevel.INFO,
) -> None:
    """Answer calls until Ctrl-C or SIGTERM. Settings come from the environment and from .env (see .env.example)."""
    from app.server.serve import serve as run

    settings = _settings(host=host, port=port, tunnel=tunnel, set_number=set_number)
    start_logging(log_level, settings.logging.format.resolve(), settings.secrets)
    log_uncaught_exceptions()
    raise typer.Exit(run(settings))


@cli.command()
def drain(
    url: Annotated[str | None, typer.Argument(help="Where the service listens; default: HOST and PORT.")] = None,
    seconds: Annotated[
        int | None,
        typer.Option(
            help="How long calls may go on; default: its DRAIN_SECONDS or MAX_CALL_SECONDS.", min=0, max=14_400
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Return only when the service has stopped.")] = True,
) -> None:
    """Have the running service take no more calls, and stop when those that are on have ended."""
    from app.cli.drain import run_drain

    raise typer.Exit(run_drain(_settings(url), url, seconds, wait))


@cli.command()
def doctor() -> None:
    """Check everything a call needs and say what to type. Exits with 1 if something is in the way."""
    from app.cli.doctor.checks import report

    raise typer.Exit(report(_settings()))


@cli.command()
def demo(
    checkpoint: Annotated[
        str | None, typer.Option(help="Who answers: a MOSHI_CHECKPOINT. Default: Moshi where it can run.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where recordings and picture go.")] = Path("demo"),
) -> None:
    """Answer two simulated phone calls, no account needed: the line test and the full pipeline."""
    from app.cli.demo.run import run_demo

    raise typer.Exit(run_demo(_settings(), checkpoint, folder))


@cli.command()
def simulate(
    url: Annotated[
        str | None, typer.Argument(help="The service's public URL; default: the one that runs at HOST and PORT.")
    ] = None,
    calls: Annotated[int, typer.Option(help="So many callers at once, at random phases.", min=1, max=500)] = 1,
    audio: Annotated[Path | None, typer.Option(help="What the caller says: an audio file of any rate.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Hang up after this long.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Save the first caller (left) and Moshi (right) here.")] = None,
    json_file: JsonFile = None,
    picture: Annotated[Path | None, typer.Option(help="Draw what Twilio has buffered over time here (PNG).")] = None,
    scenario: Annotated[
        str, typer.Option(help="What goes wrong on the caller's line: a known scenario or a JSON file.")
    ] = "steady",
) -> None:
    """Place simulated Twilio calls to a running service, signed with TWILIO_AUTH_TOKEN."""
    from app.cli.simulate import Simulation, run_simulation

    wanted = Simulation(url, calls, audio, seconds, _scenario(scenario), wav, json_file, picture)
    raise typer.Exit(run_simulation(_settings(url), wanted))


calls = typer.Typer(help="Past calls, from the call log, and running ones.")
cli.add_typer(calls, name="calls")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@calls.callback(invoke_without_command=True)
def calls_list(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="Show so many.", min=1, max=100_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """The last calls, the newest first: when, with whom, how long, how they ended, first sound, gaps."""
    from app.cli.calls import list_calls

    if context.invoked_subcommand is None:
        raise typer.Exit(list_calls(_settings(), limit, as_json))


@calls.command("show")
def calls_show(
    sid: Annotated[str, typer.Argument(help="The call's SID, or its beginning or end.")], as_json: AsJson = False
) -> None:
    """One call: its record, what happened, and what Moshi said when."""
    from app.cli.calls import show_call

    raise typer.Exit(show_call(_settings(), sid, as_json))


@calls.command("top")
def calls_top(
    url: Annotated[str | None, typer.Argument(help="Where the service listens; default: HOST and PORT.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what goes on now and return.")] = False,
) -> None:
    """The calls that are on, live: with whom, how long, latency, playout buffer, levels, and what Moshi says."""
    from app.cli.calls_top import run_top

    raise typer.Exit(run_top(_settings(url), url, once))


@cli.command()
def forget(
    number: Annotated[
        str,
        typer.Argument(help="A number, +15551234567, or sip:…, client:…, whatsapp:…, anonymous, as the log has it."),
    ],
) -> None:
    """Delete every call with this person from the call log, and the recordings of these calls."""
    from app.cli.calls import forget_caller

    raise typer.Exit(forget_caller(_settings(), number))


@cli.command()
def render(
    call: Annotated[str, typer.Argument(help="A recorded call's SID or its end, or the path of its token log.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .flac or .wav file; default: NAME.24k.flac in this folder.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Whose codec made the tokens; default: the MOSHI_CHECKPOINT that they name.")
    ] = None,
) -> None:
    """Make a recorded call again at 24 kHz from its tokens: caller left, Moshi right, step by step."""
    from app.cli.render import render_call

    raise typer.Exit(render_call(_settings(), call, output, checkpoint))


bench = typer.Typer(help="Measure, print a table, and write the same figures with --json.", no_args_is_help=True)
cli.add_typer(bench, name="bench")


@bench.command("line")
def bench_line(
    seconds: Annotated[float, typer.Option(help="Length of the call.", min=5)] = 30.0,
    checkpoint: Annotated[
        str | None, typer.Option(help="Measure this MOSHI_CHECKPOINT; without it, the line test (the caller's echo).")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="What goes wrong on the caller's line: a known scenario or a JSON file.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """One simulated call in real time, or one for each scenario: latency, fidelity, gaps, time per stage."""
    from app.cli.bench.line import bench_line as run
    from app.cli.service_process import LOOPBACK

    environment = {"MOSHI_CHECKPOINT": checkpoint, "ENGINE": "mlx"} if checkpoint else LOOPBACK
    lines = [_scenario(name) for name in scenario or ["steady"]]
    for line in lines:
        if line.held or line.engine_late or line.cut_s:
            raise typer.BadParameter(f"{line.name} can be measured in virtual time only: bench trouble")
    raise typer.Exit(run(environment, seconds, json_file, lines))


@bench.command("engine")
def bench_engine(
    checkpoint: Annotated[str, typer.Option(help="Whose step is timed.")] = "synthetic:random:tiny:f32",
    rows: Annotated[str, typer.Option(help="Numbers of calls, separated by commas.")] = "1,2,4,8,16,32",
    steps: Annotated[int, typer.Option(help="Steps timed for each.", min=5)] = 100,
    context: Annotated[int | None, typer.Option(help="Steps remembered; default: the checkpoint's.")] = None,
    full: Annotated[bool, typer.Option(help="Measure with full KV caches, as after four minutes of a call.")] = False,
    json_file: JsonFile = None,
) -> None:
    """The batched step at several numbers of calls, against moshi_mlx's own LmGen in the same run."""
    from app.cli.bench.engine import bench_engine as run

    given = {"checkpoint": checkpoint, "steps": steps, "context": context}
    raise typer.Exit(run(_settings(), _numbers(rows, "--rows"), json_file, full, **given))


@bench.command("trouble")
def bench_trouble(
    scenario: Annotated[
        list[str] | None, typer.Option(help="A known scenario or a JSON file; repeat it. Default: all known ones.")
    ] = None,
    json_file: JsonFile = None,
    picture: Annotated[Path | None, typer.Option(help="Draw latency and playout buffer over time here (PNG).")] = None,
) -> None:
    """Stalls, jitter, drift and the like against the rules of a call, in virtual time: an hour takes seconds."""
    from app.cli.bench.trouble import bench_trouble as run

    raise typer.Exit(run([_scenario(name) for name in scenario or _known_scenarios()], json_file, picture))


def _known_scenarios() -> list[str]:
    from app.simulator.trouble import KNOWN

    return list(KNOWN)


def _scenario(name: str) -> "Scenario":
    from app.simulator.trouble import KNOWN, read_scenario

    if name in KNOWN:
        return KNOWN[name]
    try:
        return read_scenario(Path(name))
    except (OSError, ValueError) as error:
        print(f"moshi-bridge: {error}; known scenarios: {', '.join(KNOWN)}", file=sys.stderr)
        raise typer.Exit(EXIT_SETTINGS) from error


@bench.command("crowd")
def bench_crowd(
    calls: Annotated[str, typer.Option(help="Numbers of callers, separated by commas.")] = "1,8,20,50",
    seconds: Annotated[float, typer.Option(help="Length of each call.", min=5)] = 30.0,
    step_ms: Annotated[float, typer.Option(help="How long the engine takes for a step.", min=0)] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Many simulated calls at once to a line test: the worst latency, gaps, processor time per call."""
    from app.cli.bench.crowd import bench_crowd as run

    raise typer.Exit(run(_numbers(calls, "--calls"), seconds, step_ms, json_file))


@bench.command("codec")
def bench_codec(
    rows: Annotated[str, typer.Option(help="Numbers of calls, separated by commas.")] = "1,2,4,8,16",
    threads: Annotated[str, typer.Option(help="Numbers of threads, separated by commas.")] = "1,2",
    frames: Annotated[int, typer.Option(help="Frames timed for each.", min=5)] = 40,
    json_file: JsonFile = None,
) -> None:
    """Mimi's two directions at several numbers of calls: rustymimi and ours, time, memory, calls in real time."""
    from app.cli.bench.codec import bench_codec as run

    numbers = _numbers(rows, "--rows"), _numbers(threads, "--threads")
    raise typer.Exit(run(_settings(), *numbers, frames, json_file))


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"write {option} 1,2,4") from error
