"""The commands `moshi-bridge persona`. What one needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import settings_or_exit

persona = typer.Typer(help="The personas in PERSONAS_DIR: who answers, with which greeting, prompt and voice.")
Name = Annotated[str, typer.Argument(help="The persona's name.")]


@persona.command("list")
def persona_list() -> None:
    """All personas: numbers, greeting, prompt, voice; or what is wrong with their files."""
    from app.cli.personas import list_personas

    list_personas(settings_or_exit())


@persona.command("show")
def persona_show(name: Name) -> None:
    """One persona, with its prompt and notes."""
    from app.cli.personas import show_persona

    show_persona(settings_or_exit(), name)


@persona.command("try")
def persona_try(
    name: Name,
    wav: Annotated[Path, typer.Option(help="Save the caller (left) and the persona (right) here.")],
    audio: Annotated[Path | None, typer.Option(help="What the caller says; default: the demo's questions.")] = None,
) -> None:
    """Place one simulated call to a service of its own in which this persona answers."""
    from app.cli.personas import try_persona

    try_persona(settings_or_exit(), name, wav, audio)
