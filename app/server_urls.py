"""The addresses of Moshi servers, as `MOSHI_SERVERS` and `talk --url` give them. No I/O."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from app.twilio.signature import DEFAULT_PORTS, SOCKET_SCHEMES

PATH = "/api/chat"
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
MOST_SESSIONS = 256
SESSIONS, KIND, TOKEN = "sessions", "kind", "token"
"""What is ours in the query of a server; everything else is sent to it."""
PERSONAPLEX = "personaplex"
CA, PIN = "ca", "sha256"
"""What may be in the fragment."""


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """One server. It may have so many `sessions` at once; `personaplex` servers want a prompt and a voice.

    `ca` is the authority to trust in place of the system's, `pin` the SHA-256 of its certificate.
    """

    url: str = field(repr=False)
    shown: str
    """The URL without user, password and query."""
    sessions: int = 1
    personaplex: bool = False
    token: str = field(default="", repr=False)
    ca: Path | None = None
    pin: str | None = None

    @property
    def query(self) -> dict[str, str]:
        """What the URL itself asks of the server."""
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    def asking(self, query: Mapping[str, str]) -> str:
        return urlsplit(self.url)._replace(query=urlencode(query)).geturl()

    @property
    def secrets(self) -> tuple[str, ...]:
        parts = urlsplit(self.url)
        return tuple(filter(None, (self.token, parts.password, unquote(parts.password or ""))))


def parse_servers(text: str) -> tuple[ServerUrl, ...]:
    """Return the servers of a list with commas. Raises ValueError, whose message holds no URL: it may have a token."""
    servers: dict[str, ServerUrl] = {}
    for number, part in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        try:
            server = _parse(part)
        except ValueError as error:
            raise ValueError(f"server {number}: {error}") from error
        if server.shown in servers:
            raise ValueError(f"server {number} is there twice: ?sessions=2 lets it have two")
        servers[server.shown] = server
    return tuple(servers.values())


def _parse(text: str) -> ServerUrl:
    base, _, fragment = text.partition("#")
    url, shown = chat_url(base, {})
    parts, trust = urlsplit(url), _trust(fragment)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    token, kind = query.pop(TOKEN, ""), query.pop(KIND, "")
    sessions = query.pop(SESSIONS, "1")
    if not (sessions.isdecimal() and 1 <= int(sessions) <= MOST_SESSIONS):
        raise ValueError(f"sessions is a number from 1 to {MOST_SESSIONS}")
    if kind not in ("", PERSONAPLEX):
        raise ValueError(f"kind may be {PERSONAPLEX}; other servers need none")
    if token and parts.username:
        raise ValueError("has a token and a user; only one of them can be sent")
    secure = parts.scheme == "wss"
    if not secure and trust:
        raise ValueError(f"#{CA}= and #{PIN}= are for wss://")
    if not secure and (token or parts.username) and not is_loopback(parts.hostname or ""):
        raise ValueError("a token or a password is sent to another machine by wss:// only")
    url = parts._replace(query=urlencode(query)).geturl()
    ca, pin = trust.get(CA), trust.get(PIN)
    path, digits = Path(ca).expanduser() if ca else None, parse_pin(pin) if pin else None
    return ServerUrl(url, shown, int(sessions), kind == PERSONAPLEX, token, path, digits)


def _trust(fragment: str) -> dict[str, str]:
    given = dict(parse_qsl(fragment, keep_blank_values=True))
    if (fragment and not given) or given.keys() - {CA, PIN} or len(given) > 1 or "" in given.values():
        raise ValueError(f"after # comes {CA}=FILE or {PIN}=FINGERPRINT")
    return given


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
        raise ValueError("is no address of a Moshi server, such as wss://gpu:8998")
    parts = parts._replace(
        scheme=SOCKET_SCHEMES.get(parts.scheme, parts.scheme),
        path=parts.path if parts.path.strip("/") else PATH,
        query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()]),
        fragment="",
    )
    return parts.geturl(), parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]


def parse_pin(pin: str) -> str:
    """Return the 64 hexadecimal digits of a SHA-256, with or without colons, as openssl prints it."""
    digits = pin.rpartition("=")[2].replace(":", "").strip().lower()
    if not FINGERPRINT.fullmatch(digits):
        raise ValueError("the SHA-256 of a certificate is 64 hexadecimal digits, with or without colons")
    return digits


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is this machine's alone; clients of HOST=:: have IPv4 addresses in IPv6."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
