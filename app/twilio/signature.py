"""Twilio's signatures, checked and, for the simulator, made.

A signature is base64(HMAC-SHA1(auth token, URL + sorted form parameters)): https://www.twilio.com/docs/usage/security.
The URL is the one that Twilio was given, so it is built from the configured public URL alone. The Host header is wrong
behind tunnels and an attacker's to choose. Twilio signs the host in the case in which it was given, with user and
password if the URL has them (reported); other senders normalize. So each spelling of the public URL is accepted: host
as written and in lower case, with and without user and password, default port written out and left out.
"""

import hmac
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from workers.logging import mask_userinfo

FormPairs = Iterable[tuple[str, str]]
"""The parameters of a form, in any order; a name may occur more than once."""

SIGNATURE_HEADER = "X-Twilio-Signature"
SOCKET_SCHEMES = {"http": "ws", "https": "wss"}
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class SignatureCheck:
    """Tell whether a request was signed with one of our auth tokens for our public URL."""

    def __init__(self, public_url: str, auth_tokens: Sequence[str]) -> None:
        """Check against `public_url` and any of `auth_tokens`, the primary one first.

        Raises `ValueError` when the URL is no http(s) URL, or when no token is given or one is empty: anybody could
        sign with an empty token.
        """
        if not auth_tokens or not all(auth_tokens):
            raise ValueError("at least one auth token is needed, and none may be empty")
        checked_base(public_url)
        self._public_url = base = public_url.rstrip("/")
        self._webhook_bases, self._socket_bases = spellings(base), spellings(socket_url(base))
        self._validators = [RequestValidator(token) for token in auth_tokens]

    def webhook_valid(self, path_and_query: str, form: FormPairs, signature: str | None, host: str = "") -> bool:
        """Check a form POST; `path_and_query` is as on the request line, percent signs and all.

        `host`, the Host header, adds its own spelling where it differs from the public host in case alone.
        """
        bases = {*self._webhook_bases, *_in_case_of(self._public_url, host)}
        return self._valid([base + path_and_query for base in bases], path_and_query, form, signature)

    def socket_valid(self, path: str, signature: str | None) -> bool:
        """Check a WebSocket upgrade; `path` is as on the request line. It is the URL of the TwiML that is signed.

        With and without one trailing slash: which of them Twilio signs has changed over time, and none can be forged.
        """
        bare = path.removesuffix("/")
        urls = [base + bare + slash for base in self._socket_bases for slash in ("", "/")]
        return self._valid(urls, path, (), signature)

    def _valid(self, urls: Sequence[str], path: str, form: FormPairs, signature: str | None) -> bool:
        if not signature or not path.startswith("/"):
            return False
        parameters, given = ImmutableMultiDict(list(form)), signature.encode("utf-8", "replace")
        try:
            wanted = (one.compute_signature(url, parameters) for one in self._validators for url in urls)
            return any(hmac.compare_digest(signed.encode(), given) for signed in wanted)
        except ValueError:  # a lone surrogate in the path or the form, which Twilio never sends
            return False


def sign(auth_token: str, url: str, form: FormPairs = ()) -> str:
    """Return the `X-Twilio-Signature` for a request, as Twilio would; an upgrade has no form."""
    signature: str = RequestValidator(auth_token).compute_signature(url, ImmutableMultiDict(list(form)))
    return signature


def socket_url(url: str) -> str:
    """Return the same URL for a WebSocket: http becomes ws, https becomes wss."""
    scheme, rest = url.split(":", 1)
    return f"{SOCKET_SCHEMES[scheme.lower()]}:{rest}"


def checked_base(public_url: str) -> str:
    """Return scheme, user and password, host in lower case, port and path, without a slash at the end.

    Raises ValueError, which shows no password.
    """
    parts = urlsplit(public_url)
    _ = parts.port  # raises ValueError when it is no port
    if parts.scheme not in SOCKET_SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"a URL must be http(s)://host[:port][/prefix], not {mask_userinfo(public_url)!r}")
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user}{at}{host.lower()}{parts.path.rstrip('/')}"


def same_url(one: str, other: str) -> bool:
    """Tell whether two URLs differ in nothing but their spelling: the case of the host, or a default port."""
    return not spellings(one).isdisjoint(spellings(other))


def spellings(url: str) -> set[str]:
    """Return the URLs that may be signed for this one; itself alone if it is no http(s) or ws(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return {url}
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return {url}
    user, at, host = parts.netloc.rpartition("@")
    bare, default = host.removesuffix(f":{port or ''}"), DEFAULT_PORTS[parts.scheme]
    hosts = {host, bare, f"{bare}:{default}"} if port in (None, default) else {host, bare}
    hosts |= {one.lower() for one in hosts}
    return {parts._replace(netloc=before + one).geturl() for one in hosts for before in ("", user + at)}


def _in_case_of(url: str, host: str) -> set[str]:
    """Return the spellings of `url` with its host as in a Host header; none if that names another host."""
    parts, name = urlsplit(url), host.partition(":")[0]
    if not name or name.lower() != parts.hostname:
        return set()
    user, at, ours = parts.netloc.rpartition("@")
    return spellings(parts._replace(netloc=f"{user}{at}{name}{ours[len(name) :]}").geturl())
