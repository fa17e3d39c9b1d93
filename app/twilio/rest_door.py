"""The way to Twilio's REST API and back: its errors, and which requests are repeated.

A request may be repeated when Twilio did not take it: it was turned away for their number (429), or nobody was there to
take it. After a 5xx or a lost connection nobody knows whether it was carried out, so only what does no harm twice is
repeated then.
"""

import json
import logging
import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from socket import gaierror
from ssl import SSLCertVerificationError
from typing import Any
from urllib.parse import urlsplit

from requests.exceptions import ConnectTimeout
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped]

from app.logging import mask_number
from app.twilio.errors import CONCURRENCY, MEANINGS, explain

TIMEOUT_S = 10.0
ATTEMPTS = 4
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
"""Who is told to wait longer than this is told so, instead of being kept waiting."""
_SILENT = logging.Logger("twilio", logging.CRITICAL)
_NUMBER = re.compile(r"\+?\d{7,}")


class RestError(Exception):
    """Twilio refused, or could not be reached; the message is one line that says what to do, with numbers masked.

    `code` is Twilio's, None where there is none; `status` is HTTP's, None when no answer came. `unheard` tells that the
    request reached nobody; `may_be_done` that nobody knows whether Twilio has carried it out.
    """

    def __init__(
        self,
        sentence: str,
        code: int | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        unheard: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.code, self.status, self.retry_after_s, self.unheard = code, status, retry_after_s, unheard

    @property
    def may_be_done(self) -> bool:
        if self.status is None:
            return not self.unheard
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status < HTTPStatus.MULTIPLE_CHOICES


def retry_wait_s(error: RestError, attempt: int, harmless: bool, chance: float) -> float | None:
    """Return how long to wait after attempt number `attempt` (from 1) has failed, None to give up.

    `harmless` tells that the request may be carried out twice. The wait doubles each time; `chance`, 0 to 1, keeps
    those who failed together from coming back together.
    """
    not_taken = error.unheard or (error.status == HTTPStatus.TOO_MANY_REQUESTS and error.code != CONCURRENCY)
    unknown = error.status is None or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if attempt >= ATTEMPTS or not (not_taken or (harmless and unknown)):
        return None
    wait_s = FIRST_WAIT_S * 2 ** (attempt - 1) * (0.5 + chance / 2)
    wanted_s = max(wait_s, error.retry_after_s or 0.0)
    return wanted_s if wanted_s <= LONGEST_WAIT_S else None


class RestDoor:
    """Twilio's HTTP client, led to `api_url`; what is no success leaves it as RestError."""

    def __init__(self, api_url: str) -> None:
        self._base = urlsplit(api_url)
        self.host = self._base.netloc.rpartition("@")[2]
        self._http = TwilioHttpClient(timeout=TIMEOUT_S, logger=_SILENT)
        self.clock_s: float | None = None

    def request(self, method: str, uri: str, **rest: Any) -> Any:
        url = urlsplit(uri)._replace(scheme=self._base.scheme, netloc=self._base.netloc).geturl()
        try:
            response = self._http.request(method, url, **rest)
        except OSError as error:  # all that `requests` raises
            raise _unanswered(self.host, error) from error
        self.clock_s = _clock_s(response.headers)
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            raise _refusal(response)
        if not _body(response.text):
            raise unlike_twilio(self.host, response.status_code)
        return response


UNHEARD: dict[type[BaseException], str] = {
    ConnectionRefusedError: "the connection was refused",
    gaierror: "its address cannot be found",
    ConnectTimeout: "no connection",
    SSLCertVerificationError: "its certificate is not accepted",
}
"""What goes wrong before a request is sent."""


def _unanswered(host: str, error: OSError) -> RestError:
    for cause in _causes(error):
        if reason := next((told for kind, told in UNHEARD.items() if isinstance(cause, kind)), None):
            return RestError(f"{host}: {reason}; is this machine online?", unheard=True)
    return RestError(f"{host}: no answer; is this machine online?")


def unlike_twilio(host: str, status: int | None = None) -> RestError:
    """Return the error for a success whose content is none of Twilio's: a web page, a list, fields that are missing."""
    advice = "is TWILIO_API_URL right, and is there a proxy in between?"
    return RestError(f"{host} answers otherwise than Twilio does: {advice}", status=status)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(response: Any) -> RestError:
    """Return the error for an answer that is none; its JSON may be missing, as from a proxy in between."""
    body = _body(response.text)
    code, status = body.get("code"), int(response.status_code)
    retry_after_s = _seconds(response.headers.get("Retry-After"))
    if type(code) is not int:
        return RestError(f"Twilio answered with HTTP {status}", None, status, retry_after_s)
    told = "" if code in MEANINGS else f" ({_masked(str(body.get('message', '')))})"
    return RestError(explain(code) + told, code, status, retry_after_s)


def _body(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _masked(text: str) -> str:
    return " ".join(_NUMBER.sub(lambda found: mask_number(found[0]), text).split())


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None


def _clock_s(headers: Any) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("Date")).timestamp()
    except (TypeError, ValueError):
        return None
