"""Twilio's form requests, signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from app.simulator.address import dialled
from app.twilio.signature import sign

TIMEOUT_S = 15
"""Twilio waits no longer for TwiML."""
KEPT_S = 2
"""How long an idle connection is used again: servers close theirs after some seconds, at times just then."""


class WebhookError(Exception):
    """The server gave no usable answer; `status` is None when it gave none at all."""

    def __init__(self, status: int | None, sentence: str) -> None:
        """Keep the HTTP `status` for tests and the `sentence` for people."""
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class WebhookClient:
    """Post forms as Twilio does; an async context manager. No signature without `auth_token`."""

    auth_token: str | None
    dial_url: str | None
    _session: ClientSession

    @classmethod
    def open(cls, auth_token: str | None, dial_url: str | None) -> Self:
        """Return a door to the server at `dial_url`, or at the address in each URL when that is None."""
        connector = TCPConnector(keepalive_timeout=KEPT_S)
        return cls(auth_token, dial_url, ClientSession(timeout=ClientTimeout(total=TIMEOUT_S), connector=connector))

    async def post(self, url: str, form: Mapping[str, str]) -> str:
        """Return the body of the answer; raises `WebhookError`."""
        headers = {"User-Agent": "TwilioProxy/1.1", **signature_header(self.auth_token, url, form)}
        try:
            async with self._session.post(dialled(url, self.dial_url), data=form, headers=headers) as response:
                body = await response.text()
        except (ClientError, TimeoutError, UnicodeDecodeError) as error:
            raise WebhookError(None, f"{url}: {error or type(error).__name__}") from error
        if not response.ok:
            raise WebhookError(response.status, f"{url}: HTTP {response.status}")
        return body

    async def __aenter__(self) -> Self:
        """Return this door."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._session.close()


def signature_header(auth_token: str | None, url: str, form: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the signature header for a request, {} without a token."""
    return {} if auth_token is None else {"X-Twilio-Signature": sign(auth_token, url, (form or {}).items())}
