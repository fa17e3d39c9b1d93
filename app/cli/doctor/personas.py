"""The doctor's check of the personas: what the service refuses at its start."""

from collections.abc import Iterator

from app.cli.doctor.finding import Finding, good, note, problem
from app.config import Settings, SettingsError
from app.server.persona_folder import PersonaFolder


def examine_personas(settings: Settings) -> Iterator[Finding]:
    chosen = settings.personas
    if not (chosen.folder or chosen.default):
        return
    folder = PersonaFolder(chosen.folder, chosen.default)
    try:
        folder.load()
    except SettingsError as error:
        yield from (problem("PERSONAS_DIR", line) for line in str(error).splitlines())
        return
    names = ", ".join(folder.state.personas.by_name)
    if not names:
        yield note("PERSONAS_DIR", f"{chosen.folder}: no .toml file", "docs/personas.md says what is in one")
        return
    answers = chosen.default or "Moshi as its weights are"
    yield good("PERSONAS_DIR", f"{names}; {answers} answers where no persona is chosen")
