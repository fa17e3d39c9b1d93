"""The server to talk to: its URL with the query, the token, TLS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from app.config import Settings, is_loopback
from app.server.persona_folder import PersonaFolder
from app.server.remote.connection import Target
from app.server.remote.query import personaplex_query
from app.server.remote.tls import make_context
from app.server_urls import chat_url


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about the server; `url` None stands for the service here."""

    url: str | None = None
    persona: str | None = None
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    pin: str | None = None


def find_target(settings: Settings, wanted: Wanted) -> Target:
    """Raises ValueError, and SettingsError where PERSONAS_DIR is wrong."""
    query = _persona_query(settings, wanted)
    try:
        url, shown = chat_url(wanted.url or settings.server.local_url, query)
    except ValueError as error:
        raise ValueError(f"--url {error}") from error
    token = wanted.token or ("" if wanted.url else settings.operators.token)
    secure = url.startswith("wss:")
    if wanted.url and token and not secure and not is_loopback(urlsplit(url).hostname or ""):
        raise ValueError(f"{shown}: a token is sent to another machine by wss:// only")
    if not secure and (wanted.ca is not None or wanted.pin is not None):
        raise ValueError(f"{shown}: --ca and --pin are for wss://")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Target(url, shown, headers, make_context(wanted.ca, wanted.pin) if secure else None)


def _persona_query(settings: Settings, wanted: Wanted) -> Mapping[str, str]:
    if not wanted.persona:
        return {}
    if wanted.url and settings.personas.folder:
        folder = PersonaFolder(settings.personas.folder, settings.personas.default)
        folder.load()
        if persona := folder.state.personas.by_name.get(wanted.persona):
            try:
                return {"persona": persona.name, **personaplex_query(persona.prompt, persona.voice)}
            except ValueError as error:
                raise ValueError(f"{persona.name}: {error}") from error
    return {"persona": wanted.persona}
