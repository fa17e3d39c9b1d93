"""Where the call log is: what DATABASE_URL means.

The URL of a PostgreSQL server is libpq's: every parameter that libpq knows works. What libpq does not know, or cannot
use, is refused at the start and by every command, so that a mistyped `sslmode` never means "no encryption".
"""

import os
import re
from dataclasses import dataclass, field
from errno import EACCES
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn

from app.config import Settings, SettingsError
from app.telemetry.call_log.spool import NAME as SPOOL

OFF = "off"
WRONG = "DATABASE_URL: must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or off"
ESCAPED = "in a password write %25 for %, %40 for @, %2F for / and %3F for ?"
POSTGRESQL = ("postgresql", "postgres")
CONNECT_WITHIN_S = 5
"""Until a server that does not answer is taken to be away, unless the URL has `connect_timeout`."""
WHOLE_NUMBERS = (
    *("connect_timeout", "tcp_user_timeout", "keepalives"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count"),
)
"""What libpq looks at only after it has found the server."""
NOWHERE = "/nonexistent"
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and the folder in which records wait for it: a SQLite file, or a server by libpq's parameters."""

    shown: str
    spool_folder: Path
    file: Path | None = None
    conninfo: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Name the database without its password."""
        return self.shown


def find_address(settings: Settings) -> Address | None:
    """Return where the call log is, None if DATABASE_URL is off. Raises SettingsError if it is no such place."""
    url = settings.call_log.url
    if url in ("", OFF):
        return None
    scheme, _, rest = url.partition("://")
    backend = scheme.partition("+")[0]
    if backend in POSTGRESQL:
        return _server(f"postgresql://{rest}", settings.model.cache / "call-log")
    place = rest.removeprefix("/")
    if backend != "sqlite" or not rest.startswith("/") or place in ("", ":memory:"):
        raise SettingsError(WRONG)
    if "?" in place:
        raise SettingsError("DATABASE_URL: a SQLite file takes no parameters; take out what follows the ?")
    file = Path(place).expanduser().absolute()
    return Address(str(file), file.with_name(f"{file.name}.waiting"), file)


def _server(url: str, spool_folder: Path) -> Address:
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except (psycopg.Error, UnicodeError) as error:
        raise SettingsError(_why_not(url, str(error))) from None
    if not {"dbname", "service"} & parameters.keys():
        raise SettingsError(WRONG)
    if "@" in parameters.get("host", ""):
        raise SettingsError(f"{WRONG}; {ESCAPED}")
    if wrong := _wrong_value(parameters):
        raise SettingsError(f"DATABASE_URL: {wrong}")
    hosts = parameters.get("host") or parameters.get("hostaddr", "")
    user = f"{parameters['user']}@" if "user" in parameters else ""
    conninfo = make_conninfo(**{"connect_timeout": str(CONNECT_WITHIN_S), **parameters, "client_encoding": "utf8"})
    return Address(f"postgresql://{user}{hosts}/{parameters.get('dbname', '')}", spool_folder, conninfo=conninfo)


def _why_not(url: str, error: str) -> str:
    """Return why libpq cannot read a URL. What it quotes may be a part of the password, a parameter's name aside."""
    query = url.partition("?")[2]
    if (unknown := _UNKNOWN.match(error)) and "@" not in query:
        return f"DATABASE_URL: {unknown[1]} is no parameter of PostgreSQL's client library; take it out"
    return f"{WRONG}; {ESCAPED}"


def _wrong_value(parameters: dict[str, str]) -> str:
    """Return what libpq says against these parameters, "" for nothing. No server is asked: no host is where we look."""
    for name in WHOLE_NUMBERS:
        if not re.fullmatch(r"-?\d{1,9}", parameters.get(name, "0")):
            return f"{name} must be a whole number"
    hosts = parameters.get("hostaddr") or parameters.get("host", "")
    local = {"host": re.sub("[^,]+", NOWHERE, hosts) or NOWHERE, "hostaddr": ""}
    if parameters.get("gssencmode") == "require":  # there is no such thing on a socket
        local["gssencmode"] = "disable"
    probe = PGconn.connect_start(make_conninfo(**{**parameters, **local}).encode())
    said = probe.get_error_message().partition("\n")[0]
    probe.finish()
    return "" if NOWHERE in said else re.sub(r'"[^"]*"', lambda quoted: _name_only(quoted[0], parameters), said)


def _name_only(quoted: str, parameters: dict[str, str]) -> str:
    """Return a quoted name of a parameter; a value may be a part of a password that was not written as it must be."""
    return quoted if quoted.strip('"') in parameters else '"…"'


def make_folders(address: Address) -> None:
    """Make the folders, for this user alone. Raises SettingsError if they cannot be written."""
    try:
        address.spool_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = address.spool_folder / ".probe"
        probe.touch()
        probe.unlink()
        waiting = address.spool_folder / SPOOL
        if waiting.exists() and not os.access(waiting, os.R_OK | os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(waiting))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise SettingsError(
            f"DATABASE_URL: records of calls cannot wait in {reason}; or set DATABASE_URL=off"
        ) from error
