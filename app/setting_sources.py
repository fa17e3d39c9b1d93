"""Where the value of a setting comes from: the environment or `.env`, under its prefixed or its plain name.

A plain name is easily taken by others: conda exports HOST, many programs read PORT or SEED. `MOSHI_BRIDGE_HOST` is ours
alone, so a prefixed name wins over the plain one wherever both stand; of equal names the environment wins over `.env`.
An empty plain value is none. An empty prefixed one is the default, and hides the plain one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource
from pydantic_settings.sources import DotenvType

PREFIX = "MOSHI_BRIDGE_"
ENVIRONMENT, FILE = "the environment", ".env"
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""What copying from a web page can bring along, and `str.strip` leaves."""


@dataclass(frozen=True, slots=True)
class Found:
    """The value of a setting, the name under which it stands, and the place: `ENVIRONMENT` or `FILE`."""

    value: str
    name: str
    place: str


def find_values(env_file: DotenvType | None, names: Iterable[str]) -> dict[str, Found]:
    """Return what is set of these lower-case names. Raises UnicodeDecodeError."""
    environment = EnvSettingsSource(BaseSettings, env_ignore_empty=False).env_vars
    file = DotEnvSettingsSource(BaseSettings, env_file, env_ignore_empty=False).env_vars
    found = {name: _find(name, environment, file) for name in names}
    return {name: one for name, one in found.items() if one and one.value}


def _find(name: str, environment: Mapping[str, str | None], file: Mapping[str, str | None]) -> Found | None:
    prefixed = PREFIX + name.upper()
    for written, values, place in ((prefixed, environment, ENVIRONMENT), (prefixed, file, FILE)):
        if (value := values.get(written.lower())) is not None:
            return Found(unquoted(value), written, place)
    for values, place in ((environment, ENVIRONMENT), (file, FILE)):
        if value := unquoted(values.get(name) or ""):
            return Found(value, name.upper(), place)
    return None


def unquoted(value: str) -> str:
    """Return a value without space around it and without one pair of quotes: `docker run --env-file` keeps both."""
    bare = _stripped(value)
    if len(bare) > 1 and _QUOTES.get(bare[0]) == bare[-1]:
        return _stripped(bare[1:-1])
    return bare


def _stripped(value: str) -> str:
    before = None
    while value != before:
        before, value = value, value.strip().strip(_INVISIBLE)
    return value
