"""Those who are turned away: told why, and beyond so many times a minute not even that.

A refusal is counted for the address that it goes to; an IPv6 address stands for its network of 64 bits, which belongs
to one subscriber. Only what is refused is counted and limited, never what is signed correctly: all of Twilio may come
through one tunnel, from one address. `now` is in seconds, monotonic.
"""

import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from fastapi import HTTPException
from starlette.requests import HTTPConnection

log = logging.getLogger(__name__)

MINUTE_S = 60.0
ADDRESSES_KEPT = 4_096
NETWORK_BITS = 64
MEDIA_PATH = "/twilio/media/"
LONGEST_PATH = 100
NO_ADDRESS = "somebody without an address"


class Refused(StrEnum):
    """Why somebody is turned away, in the words that he is told."""

    UNSIGNED = "not signed by Twilio for the PUBLIC_URL"
    NO_OPERATOR = "for operators only"
    WRONG_TOKEN = "not the operators' token"  # noqa: S105 - a sentence
    NO_TOKEN = "the token is unknown, used or expired"  # noqa: S105 - a sentence
    TOO_MANY = "too many refusals"


@dataclass(slots=True)
class _Tally:
    since_s: float
    refusals: int = 0


class RefusalLimit:
    """Count refusals by address, minute by minute, for the last `addresses_kept` addresses."""

    def __init__(self, per_minute: int, addresses_kept: int = ADDRESSES_KEPT) -> None:
        self._per_minute = per_minute
        self._addresses_kept = addresses_kept
        self._tallies: OrderedDict[str, _Tally] = OrderedDict()  # the longest quiet first

    def reached(self, address: str, now: float) -> bool:
        """Tell whether an address has had its refusals of this minute."""
        tally = self._tallies.get(_network(address))
        return tally is not None and now - tally.since_s < MINUTE_S and tally.refusals >= self._per_minute

    def note(self, address: str, now: float) -> None:
        """Count one refusal."""
        network = _network(address)
        tally = self._tallies.setdefault(network, _Tally(now))
        if now - tally.since_s >= MINUTE_S:
            tally.since_s, tally.refusals = now, 0
        tally.refusals += 1
        self._tallies.move_to_end(network)
        while len(self._tallies) > self._addresses_kept:
            self._tallies.popitem(last=False)


class Refusals:
    """The answers to those who are turned away."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RefusalLimit(per_minute)
        self.counts: Counter[Refused] = Counter()
        """How many were turned away for which reason."""

    def turn_away(self, connection: HTTPConnection, reason: Refused) -> HTTPException:
        """Return the answer, 403 with the reason or 429, for the caller to raise."""
        address, now = _address(connection), time.monotonic()
        if self._limit.reached(address, now):
            self.counts[Refused.TOO_MANY] += 1
            return HTTPException(429, Refused.TOO_MANY, {"Retry-After": str(round(MINUTE_S))})
        self._limit.note(address, now)
        self.counts[reason] += 1
        log.warning(f"%s refused: {reason}", _printable(connection))  # those with one reason are alike to `Sparing`
        if self._limit.reached(address, now):
            log.warning("%s is refused without a word for a minute", _network(address))
        return HTTPException(403, reason)


def _network(address: str) -> str:
    """Return what an address stands for; one name for all that are none, as a proxy may say anything in their place."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return NO_ADDRESS
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed), NETWORK_BITS), strict=False))


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def _printable(connection: HTTPConnection) -> str:
    """Return the path, on one line, without the token in it."""
    path: str = connection.scope["path"]
    return f"{MEDIA_PATH}…" if path.startswith(MEDIA_PATH) else ascii(path[:LONGEST_PATH])[1:-1]
