"""Twilio's signatures, checked and, for the simulator, made.

A signature is base64(HMAC-SHA1(auth token, URL + sorted form parameters)): https://www.twilio.com/docs/usage/security.
The URL is the one that Twilio was given, so it is built from the configured public URL alone. The Host header is wrong
behind tunnels and an attacker's to choose.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

FormPairs = Iterable[tuple[str, str]]
"""The parameters of a form, in any order; a name may occur more than once."""

SIGNATURE_HEADER = "X-Twilio-Signature"
SOCKET_SCHEMES = {"http": "ws", "https": "wss"}


class SignatureCheck:
    """Tell whether a request was signed with one of our auth tokens for our public URL."""

    def __init__(self, public_url: str, auth_tokens: Sequence[str]) -> None:
        """Check against `public_url` and any of `auth_tokens`, the primary one first.

        Raises `ValueError` when the URL is no http(s) URL, or when no token is given or one is empty: anybody could
        sign with an empty token.
        """
        if not auth_tokens or not all(auth_tokens):
            raise ValueError("at least one auth token is needed, and none may be empty")
        self.webhook_base = checked_base(public_url)
        self.socket_base = socket_url(self.webhook_base)
        self._socket_bases = (self.socket_base, _with_port_443(self.socket_base))
        self._validators = [RequestValidator(token) for token in auth_tokens]

    def webhook_valid(self, path_and_query: str, form: FormPairs, signature: str | None) -> bool:
        """Check a form POST; `path_and_query` is as on the request line, percent signs and all."""
        return self._valid([self.webhook_base + path_and_query], path_and_query, form, signature)

    def socket_valid(self, path: str, signature: str | None) -> bool:
        """Check a WebSocket upgrade; `path` is as on the request line. It is the URL of the TwiML that is signed.

        With and without one trailing slash and, for wss, with port 443 written out: which of them Twilio signs has
        changed over time, and none can be forged.
        """
        bare = path.removesuffix("/")
        urls = [base + bare + slash for base in self._socket_bases for slash in ("", "/")]
        return self._valid(urls, path, (), signature)

    def _valid(self, urls: Sequence[str], path: str, form: FormPairs, signature: str | None) -> bool:
        if not signature or not path.startswith("/"):
            return False
        parameters = _Form(form)
        try:
            return any(validator.validate(url, parameters, signature) for validator in self._validators for url in urls)
        except ValueError:  # a lone surrogate in the path or the form, which Twilio never sends
            return False


def sign(auth_token: str, url: str, form: FormPairs = ()) -> str:
    """Return the `X-Twilio-Signature` for a request, as Twilio would; an upgrade has no form."""
    signature: str = RequestValidator(auth_token).compute_signature(url, _Form(form))
    return signature


def socket_url(url: str) -> str:
    """Return the same URL for a WebSocket: http becomes ws, https becomes wss."""
    scheme, rest = url.split(":", 1)
    return f"{SOCKET_SCHEMES[scheme]}:{rest}"


class _Form(dict[str, list[str]]):
    """A form as RequestValidator reads it: names once, all values of a name by `getlist`."""

    def __init__(self, pairs: FormPairs) -> None:
        super().__init__()
        for name, value in pairs:
            self.setdefault(name, []).append(value)

    def getlist(self, name: str) -> list[str]:
        return self[name]


def checked_base(public_url: str) -> str:
    """Return scheme, host in lower case, port and path prefix, without a slash at the end. Raises ValueError."""
    parts = urlsplit(public_url)
    _ = parts.port  # raises ValueError when it is no port
    if parts.scheme not in SOCKET_SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"a URL must be http(s)://host[:port][/prefix], not {public_url!r}")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _with_port_443(url: str) -> str:
    """Write out the port of a wss URL that has none; RequestValidator would try port 80."""
    parts = urlsplit(url)
    if parts.scheme != "wss" or parts.port:
        return url
    return parts._replace(netloc=f"{parts.netloc}:443").geturl()
