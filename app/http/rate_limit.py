"""Refused requests: each is answered with its reason, counted, and logged with what to change; then rate-limited.

They are counted by address; an IPv6 address stands for its network of 64 bits, which belongs to one subscriber. Only
what is refused is counted and limited, never what is signed correctly: all of Twilio may come through one tunnel, from
one address. `now` is in seconds, monotonic.
"""

import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from enum import StrEnum
from http import HTTPStatus

from fastapi import HTTPException
from starlette.requests import HTTPConnection

log = logging.getLogger(__name__)

MINUTE_S = 60.0
ADDRESSES_KEPT = 4_096
NETWORK_BITS = 64
MEDIA_PATH = "/twilio/media/"
MAX_PATH_LENGTH = 100


class RefusalReason(StrEnum):
    """Why a request is refused and what to change, as the answer and the log say it."""

    UNSIGNED = "not signed by Twilio"
    WRONG_SIGNATURE = (
        "not signed for PUBLIC_URL with TWILIO_AUTH_TOKEN; set PUBLIC_URL to the URL that Twilio was given "
        "(https, host, port, prefix) and the token to the account's"
    )
    OTHER_ACCOUNT = "of another account; set TWILIO_ACCOUNT_SID to the account or subaccount that owns the number"
    MALFORMED = "not a form of Twilio's; CallSid is missing or malformed, or there are too many fields"
    TOO_LARGE = "the form is too large"
    TOO_SLOW = "the form did not arrive in time"
    WRONG_METHOD = (
        "must be HTTP POST; set the number's webhooks to HTTP POST, and to a URL that is not redirected: "
        "a redirect turns POST into GET"
    )
    WRONG_PATH = "not a path of this service; Twilio's voice webhook is PUBLIC_URL/twilio/voice"
    PREFIX = "a prefix before /twilio; add it to PUBLIC_URL, or let the proxy take it away"
    NO_UPGRADE = "not a WebSocket upgrade; let the proxy pass Upgrade and Connection on"
    NO_OPERATOR = "for operators only"
    WRONG_TOKEN = "not the operators' token"  # noqa: S105 - a sentence
    NO_TOKEN = "the token is unknown, used or expired"  # noqa: S105 - a sentence
    NO_CHAT = "for operators, and for clients with CHAT_TOKEN"
    BAD_CHAT = "a chat asks for what there is not"
    TOO_MANY = "too many refusals"


ANSWERS: dict[RefusalReason, tuple[HTTPStatus, dict[str, str] | None]] = {
    RefusalReason.MALFORMED: (HTTPStatus.BAD_REQUEST, None),
    RefusalReason.TOO_LARGE: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"Connection": "close"}),
    RefusalReason.TOO_SLOW: (HTTPStatus.REQUEST_TIMEOUT, {"Connection": "close"}),
    RefusalReason.WRONG_METHOD: (HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "POST"}),
    RefusalReason.WRONG_PATH: (HTTPStatus.NOT_FOUND, None),
    RefusalReason.PREFIX: (HTTPStatus.NOT_FOUND, None),
    RefusalReason.NO_UPGRADE: (HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket", "Connection": "Upgrade"}),
}
"""Status and headers; 403 for all others."""


class RateLimiter:
    """Refuses requests, counts them by reason, and limits the answers with a reason to `per_minute` an address."""

    def __init__(self, per_minute: int, addresses_kept: int = ADDRESSES_KEPT) -> None:
        self._per_minute = per_minute
        self._addresses_kept = addresses_kept
        self._refused: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When an address's minute began and its refusals since, by network, the longest unseen first."""
        self.counts: Counter[RefusalReason] = Counter()

    def by_reason(self) -> dict[str, float]:
        return {reason.name.lower(): float(self.counts[reason]) for reason in RefusalReason}

    def refuse(self, connection: HTTPConnection, reason: RefusalReason) -> HTTPException:
        """Return the exception to raise: the reason's status, or 429 beyond the limit."""
        address, now = connection.client.host if connection.client else "", time.monotonic()
        if self.is_limited(address, now):
            self.counts[RefusalReason.TOO_MANY] += 1
            return HTTPException(429, RefusalReason.TOO_MANY, {"Retry-After": str(round(MINUTE_S))})
        self.count(address, now)
        self.counts[reason] += 1
        log.warning(f"%s refused: {reason}", _printable(connection))  # one text per reason, for the log's rate limit
        if self.is_limited(address, now):
            log.warning("%s is refused without a reason for a minute", _network(address))
        status, headers = ANSWERS.get(reason, (HTTPStatus.FORBIDDEN, None))
        return HTTPException(status, reason.value, headers)

    def is_limited(self, address: str, now: float) -> bool:
        since_s, refusals = self._refused.get(_network(address), (now, 0))
        return now - since_s < MINUTE_S and refusals >= self._per_minute

    def count(self, address: str, now: float) -> None:
        network = _network(address)
        since_s, refusals = self._refused.pop(network, (now, 0))
        self._refused[network] = (now, 1) if now - since_s >= MINUTE_S else (since_s, refusals + 1)
        while len(self._refused) > self._addresses_kept:
            self._refused.popitem(last=False)


def _network(address: str) -> str:
    """Return the IPv4 address or IPv6 network; one name for whatever else a proxy wrote in its place."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "a client without an address"
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed), NETWORK_BITS), strict=False))


def _printable(connection: HTTPConnection) -> str:
    """Return the path on one line, without the media socket's token."""
    before, media, _ = connection.scope["path"].partition(MEDIA_PATH)
    return ascii(before[:MAX_PATH_LENGTH])[1:-1] + (f"{media}…" if media else "")
