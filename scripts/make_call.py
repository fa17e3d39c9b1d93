"""The command `make-call`: Moshi calls somebody."""

import asyncio
import sys
import time
from typing import Annotated

import typer

from app.commands.outbound import (
    ExitStatus,
    Machine,
    NotReady,
    OutboundCall,
    Verdict,
    Wish,
    call_request,
    checked,
    masked_fields,
    require_ready,
)
from app.config import Settings, SettingsError, read_settings
from app.log import LogLevel, start_logging
from app.signals import stop_signals
from app.twilio.rest import API_URL, CallStatus, RestCall, open_rest
from app.twilio.rest_door import RestError

EXITS = (
    "Exit status: 0 answered and completed; 1 failed, or refused by Twilio; 2 settings or number are wrong; 3 the "
    "bridge is not ready or cannot be reached; 4 busy; 5 no answer; 6 an answering machine answered; 130 stopped with "
    "Ctrl-C, which hangs up."
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
    number: Annotated[str, typer.Argument(help="Whom to call, like +15551234567.")],
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
    wish = Wish(number, from_number, time_limit, greeting_frames, record, answering_machine)
    try:
        settings = read_settings()
        wish = checked(settings, wish)
        outcome = _show_request(settings, wish) if dry_run else asyncio.run(_call(settings, wish))
    except SettingsError as error:
        outcome = Verdict(ExitStatus.WRONG_SETTINGS, str(error))
    except NotReady as error:
        outcome = Verdict(ExitStatus.NOT_READY, str(error))
    except RestError as error:
        outcome = Verdict(ExitStatus.FAILED, str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        outcome = Verdict(ExitStatus.STOPPED, "stopped")
    for line in outcome.sentence.splitlines():
        print(f"make-call: {line}", file=sys.stderr if outcome.status else sys.stdout)
    raise typer.Exit(outcome.status)


def _show_request(settings: Settings, wish: Wish) -> Verdict:
    base_url = settings.twilio_api_url or API_URL
    print(f"POST {base_url}/2010-04-01/Accounts/{settings.twilio_account_sid or 'AC…'}/Calls.json")
    for name, value in masked_fields(call_request(wish, settings.base_url)):
        print(f"  {name:22}{value}")
    return Verdict(ExitStatus.COMPLETED, "dry run, nobody was called")


async def _call(settings: Settings, wish: Wish) -> Verdict:
    """Check the bridge, place the call, show every status once and the seconds that it lasts."""
    from rich.console import Console

    this = asyncio.current_task()
    assert this
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    rest = open_rest(settings)
    call = OutboundCall(rest, call_request(wish, await require_ready(settings)))
    console, began_s = Console(highlight=False), time.monotonic()
    shown: list[CallStatus] = []
    with console.status("placing the call …") as line:

        def show(seen: RestCall) -> None:
            word = WORDS.get(seen.status, seen.status)
            if seen.status not in shown:
                console.print(f"{word} ({seen.sid})" if not shown else word, soft_wrap=True)
                shown.append(seen.status)
            line.update(f"{word} … {time.monotonic() - began_s:.0f} s")

        try:
            return await call.run(show)
        except asyncio.CancelledError:  # Ctrl-C; nothing is above this to be told but the exit status
            return Verdict(ExitStatus.STOPPED, await call.stop())


if __name__ == "__main__":
    main()
