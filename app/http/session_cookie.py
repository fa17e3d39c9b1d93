"""The session cookie of operators: browsers cannot send a token with a WebSocket, a link or an audio element.

A cookie is its expiry time and a HMAC over it with OPERATOR_TOKEN as the key. So sessions need no storage, outlive a
restart, and end with the token. `now` is in seconds since 1970.
"""

import hashlib
import hmac

COOKIE = "moshi_bridge_operator"
VALID_FOR_S = 12 * 3600
_MAX_LENGTH = 100


class SessionCookie:
    """Issues and checks cookies for one token; an empty token accepts none."""

    def __init__(self, token: str) -> None:
        self._token = token

    def is_token(self, token: str) -> bool:
        """Compare in constant time."""
        return bool(self._token) and hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def issue(self, now: float) -> str:
        """Return the value of a cookie that is valid for `VALID_FOR_S`."""
        expiry = str(int(now) + VALID_FOR_S)
        return f"{expiry}.{self._mac(expiry)}"

    def accepts(self, cookie: str, now: float) -> bool:
        """Tell whether this cookie was issued for this token and has not expired."""
        expiry, _, mac = cookie[:_MAX_LENGTH].partition(".")
        if not self._token or not hmac.compare_digest(mac.encode(errors="replace"), self._mac(expiry).encode()):
            return False
        return now < int(expiry)

    def _mac(self, expiry: str) -> str:
        message = b"signed in until " + expiry.encode(errors="replace")
        return hmac.new(self._token.encode(), message, hashlib.sha256).hexdigest()
