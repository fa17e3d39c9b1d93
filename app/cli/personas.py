"""`moshi-bridge persona`: what is in PERSONAS_DIR, and a simulated call to try one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
import uvloop
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.calls.personas import Persona
from app.cli.bench.calls import Load, place_calls
from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.cli.service_process import ServiceFailed, start_service
from app.config import Settings, SettingsError
from app.server.persona_folder import FolderState, PersonaFolder
from app.simulator.conversation import conversation
from app.simulator.wav import Samples, read_audio


def list_personas(settings: Settings) -> None:
    with _folder(settings) as state:
        if not state.personas.by_name:
            print(f"no personas: there is no .toml file in {settings.personas.folder}")
            return
        table = Table("persona", "numbers", "greeting", "prompt", "voice", box=SIMPLE)
        for one in state.personas.by_name.values():
            name = f"{one.name} (default)" if one is state.personas.default else one.name
            table.add_row(name, *map(escape, (", ".join(one.numbers), one.greeting, _length(one.prompt), one.voice)))
        Console().print(table)


def show_persona(settings: Settings, name: str) -> None:
    with _folder(settings) as state:
        one = _find(state, name)
        grid = Table.grid(padding=(0, 2))
        sampling = ", ".join(f"{what} {value:g}" for what, value in one.sampling.given)
        facts = {"numbers": ", ".join(one.numbers), "greeting": one.greeting, "voice": one.voice, "sampling": sampling}
        facts |= {"prompt": one.prompt, "notes": one.notes.strip()}
        for what, text in {"persona": one.name, "file": state.files[name], **facts}.items():
            grid.add_row(what, escape(text or "–"))
        Console(highlight=False).print(grid)


def try_persona(settings: Settings, name: str, wav: Path, audio: Path | None) -> None:
    with _folder(settings) as state:
        one = _find(state, name)
        uvloop.run(_call(settings, one, read_audio(audio) if audio else conversation(), wav))


async def _call(settings: Settings, persona: Persona, said: Samples, wav: Path) -> None:
    environment = {"PERSONAS_DIR": str(settings.personas.folder), "PERSONA": persona.name, "MAX_CALLS": "1"}
    with tempfile.TemporaryDirectory() as folder, Console().status(f"{persona.name} is called …"):
        async with start_service(environment, Path(folder) / "service.log") as service:
            [report] = (await place_calls(service, Load(said))).reports
            record = await service.record(report.call_sid)
    report.save_wav(wav)
    print(f"{record['persona']} said: {record['transcript']}")
    print(f"hear it: {wav} (caller left, {persona.name} right)")


@contextmanager
def _folder(settings: Settings) -> Iterator[FolderState]:
    """Read PERSONAS_DIR; end the command if it is wrong, or with what fails in the block as one line."""
    try:
        if settings.personas.folder is None:
            raise SettingsError(
                "PERSONAS_DIR is not set: there are no personas; for examples type PERSONAS_DIR=deploy/personas"
            )
        folder = PersonaFolder(settings.personas.folder, settings.personas.default)
        folder.load()
        yield folder.state
    except SettingsError as error:
        raise typer.Exit(fail(error, EXIT_SETTINGS)) from error
    except (ServiceFailed, OSError, ValueError) as error:
        raise typer.Exit(fail(error, EXIT_FAILED)) from error


def _find(state: FolderState, name: str) -> Persona:
    if name not in state.personas.by_name:
        known = ", ".join(state.personas.by_name) or "none"
        raise SettingsError(f"there is no persona {name} in PERSONAS_DIR (there is {known})")
    return state.personas.by_name[name]


def _length(prompt: str) -> str:
    return f"{len(prompt):,} characters" if prompt else ""
