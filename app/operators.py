"""Who may see and steer the service: whoever sits at this machine, and elsewhere whoever has OPERATOR_TOKEN."""

import hmac
import re

from starlette.requests import HTTPConnection

from app.config import is_loopback
from app.refusals import Refusals

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via", "cf-connecting-ip", "cf-ray")
"""What a proxy adds."""
_SCHEME = "Bearer "
_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9.-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")


class Operators:
    """The check that every route under `/api/` begins with."""

    def __init__(self, token: str, refusals: Refusals) -> None:
        self._token = token
        self._refusals = refusals

    def require(self, connection: HTTPConnection) -> None:
        """Raise HTTPException (403, or 429 after too many of them) unless an operator asks."""
        if not self._lets_in(connection):
            raise self._refusals.turn_away(connection, "for operators only")

    def _lets_in(self, connection: HTTPConnection) -> bool:
        given = connection.headers.get("authorization", "")
        if self._token and given:
            return hmac.compare_digest(given.encode(), (_SCHEME + self._token).encode())
        return _is_local(connection)


def _is_local(connection: HTTPConnection) -> bool:
    """Tell whether somebody at this machine asks, of his own will.

    A tunnel or another proxy connects from this machine too, but keeps the public host name or says for whom it asks. A
    page of somebody else's in a browser on this machine connects from here as well, but says whose it is. What is not
    said as a browser or a program of ours says it is said by neither.
    """
    headers = connection.headers
    host, origin = headers.get("host", ""), headers.get("origin")
    own_page = origin is None or origin.partition("://")[2] == host
    asks_for_nobody = not any(name in headers for name in FORWARDED)
    client = connection.client.host if connection.client else ""
    return is_loopback(client) and is_loopback(_name(host)) and own_page and asks_for_nobody


def _name(host: str) -> str:
    """Return the name or address in a Host header, "" if it is none; nothing is taken in its place."""
    found = _HOST.fullmatch(host)
    return (found["name"] or found["v6"]).lower() if found else ""
