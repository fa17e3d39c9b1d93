"""The HTTP client under `rest`, its errors, and which requests are repeated.

A request may be repeated when Twilio did not accept it: it refused it for too many at once (429), or could not be
reached. After a 5xx or a lost connection nobody knows whether it was carried out, so only idempotent requests are
repeated then.
"""

import contextlib
import json
import logging
import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from socket import gaierror
from ssl import SSLCertVerificationError
from typing import Any
from urllib.parse import urlsplit

from requests.exceptions import ConnectTimeout
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped]

from app.logging import mask_number
from app.twilio.errors import CONCURRENCY, MEANINGS, CarrierError, explain

TIMEOUT_S = 10.0
ATTEMPTS = 4
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
"""A longer Retry-After is an error."""
UNREACHED: dict[type[BaseException], str] = {
    ConnectionRefusedError: "the connection was refused",
    gaierror: "its address cannot be found",
    ConnectTimeout: "no connection",
    SSLCertVerificationError: "its certificate is not accepted",
}
"""Failures before a request is sent."""
_SILENT = logging.Logger("twilio", logging.CRITICAL)
_NUMBER = re.compile(r"\+?\d{7,}")


class RestError(CarrierError):
    """The message says what to do, with numbers masked.

    `code` is Twilio's, None where there is none; `status` is HTTP's, None when no answer came; `unreached` when the
    request was not sent.
    """

    def __init__(
        self,
        sentence: str,
        code: int | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        unreached: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.code, self.status, self.retry_after_s, self.unreached = code, status, retry_after_s, unreached

    @property
    def may_be_done(self) -> bool:
        """Whether Twilio may have carried the request out."""
        if self.status is None:
            return not self.unreached
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status < HTTPStatus.MULTIPLE_CHOICES


def retry_wait_s(error: RestError, attempt: int, idempotent: bool, chance: float) -> float | None:
    """Return how long to wait after attempt number `attempt` (from 1) has failed, None to give up.

    The wait doubles each time; `chance`, 0 to 1, spreads clients that failed together.
    """
    refused = error.unreached or (error.status == HTTPStatus.TOO_MANY_REQUESTS and error.code != CONCURRENCY)
    unknown = error.status is None or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if attempt >= ATTEMPTS or not (refused or (idempotent and unknown)):
        return None
    wait_s = max(FIRST_WAIT_S * 2 ** (attempt - 1) * (0.5 + chance / 2), error.retry_after_s or 0.0)
    return wait_s if wait_s <= LONGEST_WAIT_S else None


class RestHttpClient:
    """Twilio's HTTP client, sent to `api_url`; `clock_s` is Twilio's clock as of the last answer."""

    def __init__(self, api_url: str) -> None:
        self._base = urlsplit(api_url)
        self.host = self._base.netloc.rpartition("@")[2]
        self._http = TwilioHttpClient(timeout=TIMEOUT_S, logger=_SILENT)
        self.clock_s: float | None = None

    def request(self, method: str, uri: str, **rest: Any) -> Any:
        """Return a success that holds a JSON object; raises RestError for everything else."""
        url = urlsplit(uri)._replace(scheme=self._base.scheme, netloc=self._base.netloc).geturl()
        try:
            response = self._http.request(method, url, **rest)
        except OSError as error:  # all that `requests` raises
            reason = _reason_unreached(error)
            sentence = f"{self.host}: {reason or 'no answer'}; is this machine online?"
            raise RestError(sentence, unreached=reason is not None) from error
        with contextlib.suppress(TypeError, ValueError):  # no date, or none that can be read
            self.clock_s = parsedate_to_datetime(response.headers.get("Date")).timestamp()
        body = _body(response.text)
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            raise _refusal(body, response)
        if not body:
            raise unlike_twilio(self.host, response.status_code)
        return response


def unlike_twilio(host: str, status: int | None = None) -> RestError:
    """Return the error for a success whose content is not Twilio's: a web page, a list, missing fields."""
    advice = "is TWILIO_API_URL right, and is there a proxy in between?"
    return RestError(f"{host} answers otherwise than Twilio does: {advice}", status=status)


def _reason_unreached(error: BaseException | None) -> str | None:
    """Return why the request was not sent, None if it may have been."""
    while error is not None:
        for kind, reason in UNREACHED.items():
            if isinstance(error, kind):
                return reason
        error = error.__cause__ or error.__context__
    return None


def _refusal(body: dict[str, Any], response: Any) -> RestError:
    """Return the error for a refusal, which has no JSON if a proxy sent it."""
    code, status = body.get("code"), int(response.status_code)
    retry_after = response.headers.get("Retry-After") or ""
    retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    if type(code) is not int:
        return RestError(f"Twilio answered with HTTP {status}", None, status, retry_after_s)
    masked = _NUMBER.sub(lambda found: mask_number(found[0]), str(body.get("message", "")))
    message = "" if code in MEANINGS else f" ({' '.join(masked.split())})"
    return RestError(explain(code) + message, code, status, retry_after_s)


def _body(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
