"""The doctor's check of the personas: what the service refuses at its start."""

from collections.abc import Iterator

from app.cli.doctor.finding import Finding, good, note, problem
from app.config import Settings, SettingsError
from app.server.persona_folder import PersonaFolder

NO_PROMPT = "this checkpoint takes no prompt and no voice"
ADVICE = "take `prompt` and `voice` out of the file, or set MOSHI_CHECKPOINT to a PersonaPlex (docs/checkpoints.md)"


def examine_personas(settings: Settings, takes_prompts: bool | None) -> Iterator[Finding]:
    """Check the files; `takes_prompts` says whether the checkpoint does, None if that is not known."""
    chosen = settings.personas
    if not (chosen.folder or chosen.default):
        return
    folder = PersonaFolder(chosen.folder, chosen.default)
    try:
        folder.load()
    except SettingsError as error:
        yield from (problem("PERSONAS_DIR", line) for line in str(error).splitlines())
        return
    if folder.state.prompts and takes_prompts is False:
        for name in folder.state.prompts:
            yield problem("PERSONAS_DIR", f"{folder.state.files[name]}: {NO_PROMPT}", ADVICE)
        return
    names = ", ".join(folder.state.personas.by_name)
    if not names:
        yield note("PERSONAS_DIR", f"{chosen.folder}: no .toml file", "docs/personas.md says what is in one")
        return
    answers = chosen.default or "Moshi as its weights are"
    yield good("PERSONAS_DIR", f"{names}; {answers} answers where no persona is chosen")
