"""Who may see and steer the service: whoever sits at this machine, and elsewhere whoever has OPERATOR_TOKEN."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from app.config import is_loopback
from app.refusals import Refusals, Refused

_SCHEME = "Bearer "


class Operators:
    """The check that every route under `/api/` begins with."""

    def __init__(self, token: str, refusals: Refusals) -> None:
        self._token = token
        self._refusals = refusals

    def require(self, connection: HTTPConnection) -> None:
        """Raise HTTPException (403, or 429 after too many of them) unless an operator asks."""
        if not self._lets_in(connection):
            raise self._refusals.turn_away(connection, Refused.NO_OPERATOR)

    def _lets_in(self, connection: HTTPConnection) -> bool:
        given = connection.headers.get("authorization", "")
        if self._token and given:
            return hmac.compare_digest(given.encode(), (_SCHEME + self._token).encode())
        return _is_local(connection)


def _is_local(connection: HTTPConnection) -> bool:
    """Tell whether somebody at this machine asks, of his own will.

    A tunnel connects from this machine too, but keeps the public host name. A page of somebody else's in a browser on
    this machine connects from here as well, but says whose it is.
    """
    origin = connection.headers.get("origin")
    hosts = [connection.client.host if connection.client else "", _host(str(connection.url))]
    if origin is not None:
        hosts.append(_host(origin))
    return all(is_loopback(host) for host in hosts)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
