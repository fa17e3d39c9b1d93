"""Operators: whoever is at this machine and, elsewhere, whoever has OPERATOR_TOKEN or a session cookie for it.

Browsers cannot send a token with a WebSocket, a link or an audio element. A cookie is its expiry time and a HMAC over
it with the token as the key: sessions need no storage, outlive a restart, and end with the token.
"""

import hashlib
import hmac
import re
import time

from fastapi import HTTPException
from starlette.requests import HTTPConnection

from app.config import is_loopback
from app.http.rate_limit import RateLimiter, RefusalReason

HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9.-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via", "cf-connecting-ip")
"""Set by proxies about their clients."""
COOKIE = "moshi_bridge_operator"
VALID_FOR_S = 12 * 3600
_MAX_COOKIE_LENGTH = 100


class OperatorAuth:
    """The check that the page and every route under `/api/` begin with; without a token no token or cookie is good."""

    def __init__(self, token: str, limiter: RateLimiter) -> None:
        self._token = token
        self._limiter = limiter
        self.has_token = bool(token)

    def require(self, connection: HTTPConnection) -> None:
        """Raise HTTPException (403, or 429 after too many of them) unless an operator asks."""
        if not self.is_operator(connection):
            raise self._limiter.refuse(connection, RefusalReason.NO_OPERATOR)

    def require_token(self, connection: HTTPConnection, token: str) -> None:
        """Raise HTTPException (403, or 429 after too many of them) unless this is the token."""
        if not is_token(token, self._token):
            raise self._limiter.refuse(connection, RefusalReason.WRONG_TOKEN)

    def require_own_page(self, connection: HTTPConnection) -> None:
        """Raise HTTPException 403 for a page of another site in the operator's browser, even with the token."""
        if not is_own_page(connection):
            raise HTTPException(403, "not for pages of other sites")

    def is_operator(self, connection: HTTPConnection) -> bool:
        """Tell whether an operator asks; credentials of another scheme are for a proxy before the service."""
        if self._token and (given := bearer_token(connection)):
            return is_token(given, self._token)
        return is_own_page(connection) and (self.is_signed_in(connection) or _is_local(connection))

    def is_signed_in(self, connection: HTTPConnection) -> bool:
        return self.accepts_cookie(connection.cookies.get(COOKIE, ""), time.time())

    def issue_cookie(self, now: float) -> str:
        expiry = str(int(now) + VALID_FOR_S)
        return f"{expiry}.{self._mac(expiry)}"

    def accepts_cookie(self, cookie: str, now: float) -> bool:
        expiry, _, mac = cookie[:_MAX_COOKIE_LENGTH].partition(".")
        if not self._token or not hmac.compare_digest(mac.encode(errors="replace"), self._mac(expiry).encode()):
            return False
        return now < int(expiry)

    def _mac(self, expiry: str) -> str:
        message = b"signed in until " + expiry.encode(errors="replace")
        return hmac.new(self._token.encode(), message, hashlib.sha256).hexdigest()


def bearer_token(connection: HTTPConnection) -> str:
    """Return the token of the Authorization header, "" without one."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def is_token(given: str, wanted: str) -> bool:
    """Compare in a time that tells nothing of `wanted`; if that is empty no token is right."""
    return bool(wanted) and hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def is_own_page(connection: HTTPConnection) -> bool:
    """Tell whether the request comes from no page of another site, by the headers that browsers set.

    A link on another site may lead here: the answer is not shown to that site.
    """
    headers = connection.headers
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _is_local(connection: HTTPConnection) -> bool:
    """Tell whether the client is at this machine.

    Tunnels and proxies connect from it too, but keep the public host name or set one of PROXY_HEADERS; one that does
    neither cannot be told from an operator. `connection.url` has the listen address in place of a malformed host.
    """
    if any(name in connection.headers for name in PROXY_HEADERS):
        return False
    client = connection.client.host if connection.client else ""
    host = HOST.fullmatch(connection.headers.get("host", ""))
    return is_loopback(client) and host is not None and is_loopback((host["name"] or host["v6"]).lower())
