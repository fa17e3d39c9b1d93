"""`make-call --prompt`: a prompt for one call, which the running bridge prepares before anybody is called."""

from pathlib import Path

from app.cli.bridge import NotReady
from app.cli.service_client import NoService, ServiceRefusal, open_service
from app.config import Settings, SettingsError

PREPARED_WITHIN_S = 75.0
"""The bridge gives up after a minute."""
MOST_FILE_BYTES = 65_536


def read_prompt_text(option: str | None) -> str:
    """Return the text of the option, or that of the file which it names after an @; "" for none.

    Raises SettingsError.
    """
    text = option or ""
    if text.startswith("@"):
        text = _read(Path(text[1:]))
    if option is not None and not text.strip():
        raise SettingsError("--prompt: the text is empty")
    return text


async def prepare_prompt(settings: Settings, text: str, persona: str) -> str:
    """Have the bridge prepare a prompt in the voice of a persona; return its id, "" for no text.

    Raises SettingsError if the bridge refuses it, NotReady if it cannot prepare it now.
    """
    if not text:
        return ""
    try:
        async with open_service(settings, within_s=PREPARED_WITHIN_S) as service:
            answer = await service.ask("/api/prompts", "POST", {"text": text, "persona": persona})
            if "id" not in answer:
                raise NotReady(f"--prompt: {answer['detail']}")
            return str(answer["id"])
    except ServiceRefusal as error:
        raise SettingsError(f"--prompt: {error}") from error
    except NoService as error:
        raise NotReady(f"--prompt: {error}") from error


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise SettingsError(f"--prompt @{path}: has more than {MOST_FILE_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8; save it as plain UTF-8 text"
        raise SettingsError(f"--prompt @{path}: {why}") from error
