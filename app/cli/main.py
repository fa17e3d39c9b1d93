"""The command `moshi-bridge`. What a command needs is imported when it runs, so that the service stays small."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.bench.commands import bench, find_scenario
from app.cli.options import JsonFile, ServiceUrl, settings_or_exit
from app.cli.persona_commands import persona
from app.logging import LogLevel, start_logging
from app.server.signals import interrupt_on_stop
from workers.logging import log_uncaught_exceptions

cli = typer.Typer(
    help="Answers phone calls with Moshi, Kyutai's full-duplex speech model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they show the values of variables: tokens, numbers
)
calls = typer.Typer(help="Past calls, from the call log, and running ones.")

Limit = Annotated[int, typer.Option(help="Show so many.", min=1, max=100_000)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tunnel = Annotated[bool | None, typer.Option("--tunnel/--no-tunnel", help="Take calls through cloudflared (TUNNEL).")]
SetNumber = Annotated[
    bool | None,
    typer.Option("--set-number/--leave-number", help="Point TWILIO_PHONE_NUMBER here meanwhile (SET_NUMBER)."),
]
DrainSeconds = Annotated[
    int | None,
    typer.Option(help="How long calls may go on; default: its DRAIN_SECONDS or MAX_CALL_SECONDS.", min=0, max=14_400),
]
PublicUrl = Annotated[
    str | None, typer.Argument(help="The service's public URL; default: the one that runs at HOST and PORT.")
]
CalledNumber = Annotated[str | None, typer.Option(help="The number that is called: it may choose the persona.")]
ScenarioName = Annotated[
    str, typer.Option(help="What goes wrong on the caller's line: a known scenario or a JSON file.")
]
Party = Annotated[
    str, typer.Argument(help="A number, +15551234567, or sip:…, client:…, whatsapp:…, anonymous, as the log has it.")
]
Recorded = Annotated[str, typer.Argument(help="A recorded call's SID or its end, or the path of its token log.")]
Rendered = Annotated[
    Path | None, typer.Option("--output", "-o", help="A .flac or .wav file; default: NAME.24k.flac in this folder.")
]


def main() -> None:
    interrupt_on_stop()
    cli()


@cli.callback()
def _about() -> None:
    """Answers phone calls with Moshi, Kyutai's full-duplex speech model. Start with `moshi-bridge demo`."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (PORT).")] = None,
    tunnel: Tunnel = None,
    set_number: SetNumber = None,
    log_level: Annotated[LogLevel, typer.Option(help="What to log.", case_sensitive=False)] = LogLevel.INFO,
) -> None:
    """Answer calls until Ctrl-C or SIGTERM. Settings come from the environment and from .env (see .env.example)."""
    from app.server.serve import serve as run

    settings = settings_or_exit(host=host, port=port, tunnel=tunnel, set_number=set_number)
    start_logging(log_level, settings.logging.format.resolve(), settings.secrets)
    log_uncaught_exceptions()
    raise typer.Exit(run(settings))


@cli.command()
def drain(
    node: Annotated[
        str | None, typer.Argument(help="A node by its name, as `calls` shows it, or a URL; default: this service.")
    ] = None,
    url: ServiceUrl = None,
    seconds: DrainSeconds = None,
    wait: Annotated[bool, typer.Option(help="Return only when the service has stopped.")] = True,
) -> None:
    """Have the running service, or another node, take no more calls, and stop when those that are on have ended."""
    from app.cli.drain import is_node_name, run_drain

    if node and not is_node_name(node):
        node, url = None, node
    raise typer.Exit(run_drain(settings_or_exit(url), url, node, seconds, wait))


@cli.command()
def doctor() -> None:
    """Check everything a call needs and say what to type. Exits with 1 if something is in the way."""
    from app.cli.doctor.checks import report

    raise typer.Exit(report(settings_or_exit()))


@cli.command()
def demo(
    checkpoint: Annotated[
        str | None, typer.Option(help="Who answers: a MOSHI_CHECKPOINT. Default: Moshi where it can run.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where recordings and picture go.")] = Path("demo"),
) -> None:
    """Answer two simulated phone calls, no account needed: the line test and the full pipeline."""
    from app.cli.demo.run import run_demo

    raise typer.Exit(run_demo(settings_or_exit(), checkpoint, folder))


@cli.command()
def simulate(
    url: PublicUrl = None,
    calls: Annotated[int, typer.Option(help="So many callers at once, at random phases.", min=1, max=500)] = 1,
    audio: Annotated[Path | None, typer.Option(help="What the caller says: an audio file of any rate.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Hang up after this long.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Save the first caller (left) and Moshi (right) here.")] = None,
    json_file: JsonFile = None,
    picture: Annotated[Path | None, typer.Option(help="Draw what Twilio has buffered over time here (PNG).")] = None,
    scenario: ScenarioName = "steady",
    to: CalledNumber = None,
) -> None:
    """Place simulated Twilio calls to a running service, signed with TWILIO_AUTH_TOKEN."""
    from app.cli.simulate import Simulation, run_simulation

    wanted = Simulation(url, calls, audio, seconds, find_scenario(scenario), wav, json_file, picture, to)
    raise typer.Exit(run_simulation(settings_or_exit(url), wanted))


@cli.command()
def talk(
    url: Annotated[
        str | None, typer.Option(help="Any Moshi server, wss://gpu:8998; default: the service here.")
    ] = None,
    persona: Annotated[str | None, typer.Option(help="Who answers; for --url also from your PERSONAS_DIR.")] = None,
    wav: Annotated[
        Path | None, typer.Option(help="Say this audio file, in real time; no audio device is used.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --wav: save what was said (left) and heard (right).")] = None,
    seconds: Annotated[float | None, typer.Option(help="With --wav: end after this long.", min=0.1)] = None,
    token: Annotated[str | None, typer.Option(help="Access to the server.", envvar="CHAT_TOKEN")] = None,
    ca: Annotated[Path | None, typer.Option(help="For wss://: the authority to trust, a PEM file.")] = None,
    pin: Annotated[str | None, typer.Option(help="For wss://: the SHA-256 of a self-signed certificate.")] = None,
) -> None:
    """Talk with Moshi by microphone and loudspeaker, or say a file. Wear headphones, or Moshi hears itself.

    Exits with 0, with 1 if the conversation did not begin, broke, or (--wav) nothing was heard, with 2 if an option or
    a file is wrong.
    """
    from app.cli.talk.run import run_talk
    from app.cli.talk.target import Wanted

    raise typer.Exit(run_talk(settings_or_exit(url), Wanted(url, persona, token, ca, pin), wav, out, seconds))


@calls.callback(invoke_without_command=True)
def calls_list(
    context: typer.Context,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """The last calls, the newest first: when, with whom, how long, how they ended, first sound, gaps."""
    from app.cli.calls import list_calls

    if context.invoked_subcommand is None:
        list_calls(settings_or_exit(), limit, as_json)


@calls.command("show")
def calls_show(
    sid: Annotated[str, typer.Argument(help="The call's SID, or its beginning or end.")], as_json: AsJson = False
) -> None:
    """One call: its record, what happened, and who said what when."""
    from app.cli.calls import show_call

    show_call(settings_or_exit(), sid, as_json)


@calls.command("search")
def calls_search(
    words: Annotated[str, typer.Argument(help='What was said, the beginnings of words: refund, "wrong order".')],
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """What was said in the calls: the last turns that have all these words, with call and time."""
    from app.cli.calls import search_calls

    search_calls(settings_or_exit(), words, limit, as_json)


@calls.command("top")
def calls_top(
    url: ServiceUrl = None,
    once: Annotated[bool, typer.Option("--once", help="Print what goes on now and return.")] = False,
) -> None:
    """The calls that are on, live: with whom, how long, latency, playout buffer, levels, and what Moshi says."""
    from app.cli.calls_top import run_top

    raise typer.Exit(run_top(settings_or_exit(url), url, once))


@cli.command()
def forget(number: Party) -> None:
    """Delete every call with this person from the call log, and the recordings of these calls."""
    from app.cli.calls import forget_caller

    forget_caller(settings_or_exit(), number)


@cli.command()
def render(
    call: Recorded,
    output: Rendered = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Whose codec made the tokens; default: the MOSHI_CHECKPOINT that they name.")
    ] = None,
) -> None:
    """Make a recorded call again at 24 kHz from its tokens: caller left, Moshi right, step by step."""
    from app.cli.render import render_call

    raise typer.Exit(render_call(settings_or_exit(), call, output, checkpoint))


cli.add_typer(calls, name="calls")
cli.add_typer(persona, name="persona")
cli.add_typer(bench, name="bench")
