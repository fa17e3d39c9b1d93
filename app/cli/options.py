"""What several commands share: options, settings, exit statuses, and the line on standard error."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.config import Settings, SettingsError, read_settings

EXIT_FAILED, EXIT_SETTINGS = 1, 2
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
ServiceUrl = Annotated[str | None, typer.Argument(help="Where the service listens; default: HOST and PORT.")]


def fail(why: object, status: int) -> int:
    """Print what is wrong; return the exit status."""
    for line in str(why).splitlines():
        print(f"moshi-bridge: {line}", file=sys.stderr)
    return status


def settings_or_exit(url: str | None = "", **overrides: object) -> Settings:
    """Read the settings; with `url` None the command asks the service at HOST and PORT. Ends the command if wrong."""
    try:
        settings = read_settings(**overrides)
        if url is None:
            settings.require_host()
    except SettingsError as error:
        raise typer.Exit(fail(error, EXIT_SETTINGS)) from error
    return settings
