"""The command `make-call`: Moshi calls somebody."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from app.cli.bridge import NotReady, find_bridge, prepare_prompt, read_prompt_text, refusal, require_persona
from app.cli.outbound import CallResult, DialOptions, ExitStatus, Machine, call_request, masked_fields
from app.cli.outbound_call import OutboundCall
from app.config import Settings, SettingsError, read_settings
from app.logging import LogLevel, start_logging
from app.server.signals import handle_stop_signals
from app.twilio.rest import API_URL, CallStatus, RestCall, open_rest
from app.twilio.rest_http import RestError

EXITS = (
    "Exit status: 0 answered and completed; 1 failed, or refused by Twilio; 2 settings or number are wrong; 3 the "
    "bridge is not ready or cannot be reached; 4 busy; 5 no answer; 6 an answering machine answered; 7 unknown: the "
    "call may ring or be on, which the last line says; 8 answered, but the bridge had no free slot; 130 stopped by "
    "Ctrl-C, SIGTERM or SIGHUP: the call was hung up, was over, or was never placed."
)
WORDS = {
    CallStatus.QUEUED: "queued",
    CallStatus.INITIATED: "dialling",
    CallStatus.RINGING: "ringing",
    CallStatus.IN_PROGRESS: "answered",
    CallStatus.COMPLETED: "hung up",
}
FAILURES: dict[type[Exception], ExitStatus] = {
    SettingsError: ExitStatus.WRONG_SETTINGS,
    NotReady: ExitStatus.NOT_READY,
    RestError: ExitStatus.FAILED,
}

Callee = Annotated[
    str,
    typer.Argument(
        help="Whom to call, like +15551234567. An extension (x123, ;ext=123, or after pauses: ,,123, ww123) is "
        "dialled once it is answered."
    ),
]
From = Annotated[str | None, typer.Option("--from", help="The number to call from (TWILIO_PHONE_NUMBER).")]
TimeLimit = Annotated[int | None, typer.Option(help="End the call after so many seconds.", min=5, max=14_400)]
Greeting = Annotated[
    int | None, typer.Option(help="Frames of 80 ms that Moshi speaks first, at most GREETING_FRAMES.", min=0)
]
Record = Annotated[
    bool,
    typer.Option(
        "--record", help="Have the bridge record the call (RECORDINGS_DIR); the other side may have to agree."
    ),
]
OnMachine = Annotated[
    Machine | None,
    typer.Option(help="Detect answering machines: hang up on them, or wait for the tone. Takes Twilio some seconds."),
]
PersonaName = Annotated[str, typer.Option("--persona", help="Who speaks: the name of one of the bridge's personas.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Who Moshi is in this call, at most 500 tokens: a text, or @FILE. It replaces the persona's prompt and is "
        "kept nowhere. The checkpoint must take prompts."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the request, call nobody.")]

cli = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    cli()


@cli.command(epilog=EXITS)
def make_call(
    number: Callee,
    from_number: From = None,
    time_limit: TimeLimit = None,
    greeting_frames: Greeting = None,
    record: Record = False,
    answering_machine: OnMachine = None,
    persona: PersonaName = "",
    prompt: Prompt = None,
    dry_run: DryRun = False,
) -> None:
    """Have Moshi call somebody, from your Twilio number, and follow the call. The bridge must be running."""
    start_logging(LogLevel.WARNING)
    options = DialOptions(number, from_number, time_limit, greeting_frames, record, answering_machine, persona)
    try:
        result = _run(options, read_prompt_text(prompt), dry_run)
    except (SettingsError, NotReady, RestError) as error:
        result = CallResult(FAILURES[type(error)], str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        result = CallResult(ExitStatus.STOPPED, "stopped before the call was placed")
    _print(result)
    raise typer.Exit(result.status)


def _run(options: DialOptions, prompt: str, dry_run: bool) -> CallResult:
    settings = read_settings()
    request = call_request(settings, replace(options, prompt="ID" if prompt else ""), settings.server.base_url)
    if not dry_run:
        return asyncio.run(_call(settings, options, prompt))
    base_url = settings.twilio.api_url or API_URL
    print(f"POST {base_url}/2010-04-01/Accounts/{settings.twilio.account_sid or 'AC…'}/Calls.json")
    for name, value in masked_fields(request):
        print(f"  {name:22}{value}")
    return CallResult(ExitStatus.COMPLETED, "dry run, nobody was called")


def _print(result: CallResult) -> None:
    """Print the result; a terminal that is gone does not change the exit status."""
    try:
        for line in result.sentence.splitlines():
            print(f"make-call: {line}", file=sys.stderr if result.status else sys.stdout)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


async def _call(settings: Settings, options: DialOptions, prompt: str) -> CallResult:
    """Check the bridge, place the call and follow it; a signal hangs up, a second one ends the command at once."""
    task, seen = asyncio.current_task(), list[signal.Signals]()
    assert task

    def cancel(number: signal.Signals) -> None:
        seen.append(number)
        task.cancel()

    with handle_stop_signals(cancel):
        rest = open_rest(settings)
        base_url = await find_bridge(settings)
        await require_persona(settings, options.persona)
        prepared = await prepare_prompt(settings, prompt, options.persona)
        request = call_request(settings, replace(options, prompt=prepared), base_url)
        result = await _place(OutboundCall(rest, request, refusal=partial(refusal, settings)), seen)
        if len(seen) > 1:
            _print(result)
            os._exit(result.status)  # a request in a thread would be waited for
    return result


async def _place(call: OutboundCall, signals: list[signal.Signals]) -> CallResult:
    result: CallResult | None = None
    try:
        with _showing() as show:
            result = await _run_or_stop(call, show, signals)
    except OSError:  # of the terminal, which may be gone
        if result is None:
            raise
    return result


async def _run_or_stop(
    call: OutboundCall, show: Callable[[RestCall], None], signals: list[signal.Signals]
) -> CallResult:
    try:
        try:
            return await call.run(show)
        except asyncio.CancelledError:
            if len(signals) > 1:
                raise
            return await call.stop()
    except asyncio.CancelledError:
        return call.give_up()


@contextlib.contextmanager
def _showing() -> Iterator[Callable[[RestCall], None]]:
    """Yield what shows every status once and the seconds that it lasts; a terminal that is gone stops nothing."""
    console, began_s = Console(highlight=False), time.monotonic()
    shown: list[CallStatus] = []
    with console.status("placing the call …") as line:

        def show(seen: RestCall) -> None:
            word = WORDS.get(seen.status, seen.status)
            with contextlib.suppress(OSError):
                if seen.status not in shown:
                    console.print(f"{word} ({seen.sid})" if not shown else word, soft_wrap=True)
                    shown.append(seen.status)
                line.update(f"{word} … {time.monotonic() - began_s:.0f} s")

        yield show


if __name__ == "__main__":
    main()
