"""Where the call log is: what DATABASE_URL means.

The URL of a PostgreSQL server is libpq's, with every parameter that libpq knows. What libpq does not know, or cannot
use, is refused at the start and by every command, so that a mistyped `sslmode` never means "no encryption".
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn

from app.config import Settings, SettingsError
from app.setting_types import expanded

WRONG = "DATABASE_URL: must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or off"
ESCAPED = "in a password write %25 for %, %40 for @, %2F for / and %3F for ?"
DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}
"""Until a server counts as away, in seconds (the last in ms), unless the URL says otherwise."""
WHOLE_NUMBERS = ("keepalives", *DEFAULTS)
"""What libpq checks only after it has found the server."""
NOWHERE = "/nonexistent"
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')


@dataclass(frozen=True, slots=True)
class Address:
    """A SQLite file or a server; `shown` is its name without a password, records wait for it in `spool_folder`."""

    shown: str
    spool_folder: Path
    file: Path | None = None
    conninfo: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.shown


def find_address(settings: Settings) -> Address | None:
    """Return where the call log is, None if DATABASE_URL is off. Raises SettingsError if it is no such place."""
    url = settings.call_log.url
    if url in ("", "off"):
        return None
    scheme, _, rest = url.partition("://")
    backend = scheme.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return _server(f"postgresql://{rest}", settings.model.cache / "call-log")
    place = rest.removeprefix("/")
    if backend != "sqlite" or not rest.startswith("/") or place in ("", ":memory:"):
        raise SettingsError(WRONG)
    if "?" in place:
        raise SettingsError("DATABASE_URL: a SQLite file takes no parameters; take out what follows the ?")
    try:
        file = expanded(place).absolute()
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error}") from error
    return Address(str(file), file.with_name(f"{file.name}.waiting"), file)


def _server(url: str, spool_folder: Path) -> Address:
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except (psycopg.Error, UnicodeError) as error:
        # What libpq quotes may be a part of the password, unless it is the name of a parameter.
        if (unknown := _UNKNOWN.match(str(error))) and "@" not in url.partition("?")[2]:
            named = f"DATABASE_URL: {unknown[1]} is no parameter of PostgreSQL's client library; take it out"
            raise SettingsError(named) from None
        raise SettingsError(f"{WRONG}; {ESCAPED}") from None
    if not {"dbname", "service"} & parameters.keys():
        raise SettingsError(WRONG)
    if "@" in parameters.get("host", ""):
        raise SettingsError(f"{WRONG}; {ESCAPED}")
    if fault := _fault_of(parameters):
        raise SettingsError(f"DATABASE_URL: {fault}")
    hosts = parameters.get("host") or parameters.get("hostaddr", "")
    user = f"{parameters['user']}@" if "user" in parameters else ""
    conninfo = make_conninfo(**{**DEFAULTS, **parameters, "client_encoding": "utf8"})
    return Address(f"postgresql://{user}{hosts}/{parameters.get('dbname', '')}", spool_folder, conninfo=conninfo)


def _fault_of(parameters: dict[str, str]) -> str:
    """Return libpq's objection to these parameters, "" for none. No server is asked: the host is replaced by NOWHERE.

    Quoted values are left out: they may be a part of a password that was not escaped.
    """
    for name in WHOLE_NUMBERS:
        if not re.fullmatch(r"-?\d{1,9}", parameters.get(name, "0")):
            return f"{name} must be a whole number"
    hosts = parameters.get("hostaddr") or parameters.get("host", "")
    local = {"host": re.sub("[^,]+", NOWHERE, hosts) or NOWHERE, "hostaddr": ""}
    if parameters.get("gssencmode") == "require":  # not supported on a local socket
        local["gssencmode"] = "disable"
    probe = PGconn.connect_start(make_conninfo(**{**parameters, **local}).encode())
    message = probe.get_error_message().partition("\n")[0]
    probe.finish()
    if NOWHERE in message:
        return ""
    return re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if quoted[1] in parameters else '"…"', message)
