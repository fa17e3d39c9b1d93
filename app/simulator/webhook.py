"""Twilio's form requests, signed, and where they are sent."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from app.twilio.signature import SIGNATURE_HEADER, SOCKET_SCHEMES, sign

TIMEOUT_S = 15
"""Twilio waits no longer for TwiML."""
KEEPALIVE_S = 2
"""Less than servers keep an idle connection open: one that is just being closed would fail the next request."""


class WebhookError(Exception):
    """The server gave no usable answer; `status` is None when it gave none at all."""

    def __init__(self, status: int | None, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class WebhookClient:
    """Posts forms as Twilio does: without a signature where `auth_token` is None, to `dial_url` where that is given."""

    def __init__(self, session: ClientSession, auth_token: str | None, dial_url: str | None) -> None:
        self._session, self._auth_token, self._dial_url = session, auth_token, dial_url

    async def post(self, url: str, form: Mapping[str, str]) -> str:
        """Return the body of the answer; raises `WebhookError`."""
        headers = {"User-Agent": "TwilioProxy/1.1", **signature_header(self._auth_token, url, form)}
        try:
            async with self._session.post(dialled(url, self._dial_url), data=form, headers=headers) as response:
                body = await response.text()
        except (ClientError, TimeoutError, UnicodeDecodeError) as error:
            raise WebhookError(None, f"{url}: {error or type(error).__name__}") from error
        if not response.ok:
            raise WebhookError(response.status, f"{url}: HTTP {response.status}")
        return body


@asynccontextmanager
async def open_webhooks(auth_token: str | None, dial_url: str | None) -> AsyncIterator[WebhookClient]:
    """Yield a client whose connections are closed when the block ends."""
    connector = TCPConnector(keepalive_timeout=KEEPALIVE_S)
    async with ClientSession(timeout=ClientTimeout(total=TIMEOUT_S), connector=connector) as session:
        yield WebhookClient(session, auth_token, dial_url)


def signature_header(auth_token: str | None, url: str, form: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the signature header of a request, {} without a token."""
    return {} if auth_token is None else {SIGNATURE_HEADER: sign(auth_token, url, (form or {}).items())}


def dialled(url: str, dial_url: str | None) -> str:
    """Return `url` with the scheme and address of `dial_url`, where the server of a public URL is reached."""
    if dial_url is None:
        return url
    wanted, place = urlsplit(url), urlsplit(dial_url)
    scheme = SOCKET_SCHEMES[place.scheme] if wanted.scheme in SOCKET_SCHEMES.values() else place.scheme
    return wanted._replace(scheme=scheme, netloc=place.netloc).geturl()
