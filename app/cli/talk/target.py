"""The server to talk to: its URL with the query, the token, TLS."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import parse_qsl, urlencode, urlsplit

from app.calls.personas import Persona
from app.cli.talk.tls import make_context
from app.config import Settings, is_loopback
from app.server.persona_folder import PersonaFolder
from app.twilio.signature import DEFAULT_PORTS, SOCKET_SCHEMES

PATH = "/api/chat"
PLAIN_PROMPT, PLAIN_VOICE = "You enjoy having a good conversation.", "NATF0.pt"
"""PersonaPlex ends a connection that lacks a prompt or a voice."""
VOICE_FILE, RECORDING = ".pt", ".wav"


@dataclass(frozen=True, slots=True)
class Target:
    url: str = field(repr=False)
    shown: str
    """The URL without user, password and query."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]


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
    url, shown = chat_url(wanted.url or settings.server.local_url, query)
    token = wanted.token or ("" if wanted.url else settings.operators.token)
    secure = url.startswith("wss:")
    if wanted.url and token and not secure and not is_loopback(urlsplit(url).hostname or ""):
        raise ValueError(f"{shown}: a token is sent to another machine by wss:// only")
    if not secure and (wanted.ca is not None or wanted.pin is not None):
        raise ValueError(f"{shown}: --ca and --pin are for wss://")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Target(url, shown, headers, make_context(wanted.ca, wanted.pin) if secure else None)


def chat_url(base: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Return the socket's URL, and the same without user, password and query. Raises ValueError.

    http:// and https:// are taken for ws:// and wss://. A path and a query of `base` stay.
    """
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or parts.scheme not in (*SOCKET_SCHEMES, *SOCKET_SCHEMES.values()):
        raise ValueError("--url is the address of a Moshi server, such as wss://gpu:8998")
    parts = parts._replace(
        scheme=SOCKET_SCHEMES.get(parts.scheme, parts.scheme),
        path=parts.path if parts.path.strip("/") else PATH,
        query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()]),
        fragment="",
    )
    return parts.geturl(), parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _persona_query(settings: Settings, wanted: Wanted) -> Mapping[str, str]:
    if not wanted.persona:
        return {}
    if wanted.url and settings.personas.folder:
        folder = PersonaFolder(settings.personas.folder, settings.personas.default)
        folder.load()
        if persona := folder.state.personas.by_name.get(wanted.persona):
            return {"persona": persona.name, **personaplex_query(persona)}
    return {"persona": wanted.persona}


def personaplex_query(persona: Persona) -> Mapping[str, str]:
    """Return what PersonaPlex wants: both parameters, neither empty, and never `seed`, which ends its session."""
    voice = persona.voice or PLAIN_VOICE
    suffix = PurePath(voice).suffix
    if suffix == RECORDING:
        raise ValueError(f"{persona.name}: a voice from a recording cannot be sent to another server")
    return {"voice_prompt": voice if suffix else voice + VOICE_FILE, "text_prompt": persona.prompt or PLAIN_PROMPT}
