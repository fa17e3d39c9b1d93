"""The command `make-call`: Moshi calls somebody."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console

from app.cli.bridge import NotReady, find_bridge
from app.cli.outbound import CallResult, DialOptions, ExitStatus, Machine, call_request, checked, masked_fields
from app.cli.outbound_call import OutboundCall
from app.config import Settings, SettingsError, read_settings
from app.logging import LogLevel, start_logging
from app.server.signals import stop_signals
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

cli = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    cli()


@cli.command(epilog=EXITS)
def make_call(
    number: Annotated[
        str,
        typer.Argument(
            help="Whom to call, like +15551234567. An extension (x123, ;ext=123, or after pauses: ,,123, ww123) is "
            "dialled once it is answered."
        ),
    ],
    from_number: Annotated[
        str | None, typer.Option("--from", help="The number to call from (TWILIO_PHONE_NUMBER).")
    ] = None,
    time_limit: Annotated[
        int | None, typer.Option(help="End the call after so many seconds.", min=5, max=14_400)
    ] = None,
    greeting_frames: Annotated[
        int | None, typer.Option(help="Frames of 80 ms that Moshi speaks first, at most GREETING_FRAMES.", min=0)
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Have the bridge record the call (RECORDINGS_DIR); the other side may have to agree."
        ),
    ] = False,
    answering_machine: Annotated[
        Machine | None,
        typer.Option(
            help="Detect answering machines: hang up on them, or wait for the tone. Takes Twilio some seconds."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the request, call nobody.")] = False,
) -> None:
    """Have Moshi call somebody, from your Twilio number, and follow the call. The bridge must be running."""
    start_logging(LogLevel.WARNING)
    options = DialOptions(number, from_number, time_limit, greeting_frames, record, answering_machine)
    try:
        settings = read_settings()
        options = checked(settings, options)
        outcome = _show_request(settings, options) if dry_run else asyncio.run(_call(settings, options))
    except SettingsError as error:
        outcome = CallResult(ExitStatus.WRONG_SETTINGS, str(error))
    except NotReady as error:
        outcome = CallResult(ExitStatus.NOT_READY, str(error))
    except RestError as error:
        outcome = CallResult(ExitStatus.FAILED, str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        outcome = CallResult(ExitStatus.STOPPED, "stopped before the call was placed")
    _print(outcome)
    raise typer.Exit(outcome.status)


def _print(outcome: CallResult) -> None:
    """Print the result; a terminal that is gone does not change the exit status."""
    try:
        for line in outcome.sentence.splitlines():
            print(f"make-call: {line}", file=sys.stderr if outcome.status else sys.stdout)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


def _show_request(settings: Settings, options: DialOptions) -> CallResult:
    base_url = settings.twilio.api_url or API_URL
    print(f"POST {base_url}/2010-04-01/Accounts/{settings.twilio.account_sid or 'AC…'}/Calls.json")
    for name, value in masked_fields(call_request(options, settings.server.base_url)):
        print(f"  {name:22}{value}")
    return CallResult(ExitStatus.COMPLETED, "dry run, nobody was called")


async def _call(settings: Settings, options: DialOptions) -> CallResult:
    """Check the bridge, place the call and follow it; a signal hangs up, a second one ends the command at once."""
    signals = Signals()
    rest = open_rest(settings)
    bridge = await find_bridge(settings)
    call = OutboundCall(rest, call_request(options, bridge.base_url), refusal=bridge.refusal)
    outcome: CallResult | None = None
    try:
        with _showing() as show:
            outcome = await _run_or_stop(call, show, signals)
    except OSError:  # of the terminal, which may be gone
        if outcome is None:
            raise
    if signals.seen > 1:
        _print(outcome)
        os._exit(outcome.status)  # a request in a thread would be waited for
    return outcome


async def _run_or_stop(call: OutboundCall, show: Callable[[RestCall], None], signals: "Signals") -> CallResult:
    try:
        return await call.run(show)
    except asyncio.CancelledError:
        if signals.seen > 1:
            return call.give_up()
        try:
            return await call.stop()
        except asyncio.CancelledError:
            return call.give_up()


class Signals:
    """Has signals cancel this task and counts them; not those that are ignored, as SIGHUP is under nohup."""

    def __init__(self) -> None:
        self.seen = 0
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task
        for number in stop_signals():
            loop.add_signal_handler(number, self._cancel, task)

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        self.seen += 1
        task.cancel()


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
