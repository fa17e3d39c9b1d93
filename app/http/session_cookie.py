"""The cookies of operators: browsers cannot put a token on a socket, a link or a sound.

A cookie says until when it is good and has a seal over that, which only OPERATOR_TOKEN makes: nothing is kept of those
who signed in, a restart forgets nobody, and a new token lets nobody in who had the old one. `now` is in seconds since
1970, for a cookie outlives the process.
"""

import hashlib
import hmac

COOKIE = "moshi_bridge_operator"
GOOD_FOR_S = 12 * 3600
_LONGEST = 100


class SessionCookie:
    """Issues cookies for one token and tells them from others; without a token there are none."""

    def __init__(self, token: str) -> None:
        self._token = token

    def is_token(self, token: str) -> bool:
        """Tell whether this is the token; takes as long whatever is wrong with it."""
        return bool(self._token) and hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def issue(self, now: float) -> str:
        """Return the value of a cookie that is good for `GOOD_FOR_S`."""
        until = str(int(now) + GOOD_FOR_S)
        return f"{until}.{self._seal(until)}"

    def accepts(self, cookie: str, now: float) -> bool:
        """Tell whether this cookie was issued for this token and is still good."""
        until, _, seal = cookie[:_LONGEST].partition(".")
        if not self._token or not hmac.compare_digest(seal.encode(errors="replace"), self._seal(until).encode()):
            return False
        return now < int(until)  # what is sealed is a number

    def _seal(self, until: str) -> str:
        message = b"signed in until " + until.encode(errors="replace")
        return hmac.new(self._token.encode(), message, hashlib.sha256).hexdigest()
