"""Where the call log is: what DATABASE_URL means."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.config import Settings, SettingsError

OFF = "off"
WRONG = "DATABASE_URL: must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or off"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and the folder in which records wait for it."""

    url: URL
    spool_folder: Path

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database, None for a server."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    def __str__(self) -> str:
        """Name the database without its password."""
        return str(self.file or self.url.render_as_string(hide_password=True))


def find_address(settings: Settings) -> Address | None:
    """Return where the call log is, None if DATABASE_URL is off. Raises SettingsError if it is no such place."""
    if settings.database_url in ("", OFF):
        return None
    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise SettingsError(WRONG) from error
    backend, place = url.drivername.partition("+")[0], url.database
    if backend not in DRIVERS or not place or place == ":memory:":
        raise SettingsError(WRONG)
    url = url.set(drivername=DRIVERS[backend])
    if backend != "sqlite":
        query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
        return Address(url.set(query=query), settings.cache / "call-log")
    file = Path(place).expanduser().absolute()
    return Address(url.set(database=str(file)), file.with_name(f"{file.name}.waiting"))


def make_folders(address: Address) -> None:
    """Make the folders, for this user alone. Raises SettingsError if they cannot be written."""
    try:
        address.spool_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = address.spool_folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise SettingsError(
            f"DATABASE_URL: records of calls cannot wait in {reason}; or set DATABASE_URL=off"
        ) from error
