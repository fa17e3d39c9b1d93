"""Where a URL is signed for and where it is dialled."""

from urllib.parse import urlsplit

from app.twilio.signature import SOCKET_SCHEMES


def dialled(url: str, dial_url: str | None) -> str:
    """Return `url` with the scheme and address of `dial_url`, as a socket when it is one; unchanged when that is None.

    So a server that thinks it is public can be called on loopback, with the signatures of its public URL.
    """
    if dial_url is None:
        return url
    wanted, place = urlsplit(url), urlsplit(dial_url)
    scheme = SOCKET_SCHEMES[place.scheme] if wanted.scheme in SOCKET_SCHEMES.values() else place.scheme
    return wanted._replace(scheme=scheme, netloc=place.netloc).geturl()
