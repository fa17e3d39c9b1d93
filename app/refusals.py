"""Those who are turned away: told why, and beyond so many times a minute not even that.

A refusal is counted for the address that it goes to; an IPv6 address stands for its network of 64 bits, which belongs
to one subscriber. Only what is refused is counted and limited, never what is signed correctly: all of Twilio may come
through one tunnel, from one address. `now` is in seconds, monotonic.
"""

import ipaddress
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from fastapi import HTTPException
from starlette.requests import HTTPConnection

log = logging.getLogger(__name__)

MINUTE_S = 60.0
ADDRESSES_KEPT = 4_096
NETWORK_BITS = 64
MEDIA_PATH = "/twilio/media/"
LONGEST_PATH = 100


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

    def turn_away(self, connection: HTTPConnection, reason: str) -> HTTPException:
        """Return the answer, 403 with the reason or 429, for the caller to raise."""
        address, now = _address(connection), time.monotonic()
        if self._limit.reached(address, now):
            return HTTPException(429, "too many refusals", {"Retry-After": str(round(MINUTE_S))})
        self._limit.note(address, now)
        log.warning(f"%s refused: {reason}", _printable(connection))  # those with one reason are alike to `Sparing`
        if self._limit.reached(address, now):
            log.warning("%s is refused without a word for a minute", address)
        return HTTPException(403, reason)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, NETWORK_BITS), strict=False)) if parsed.version == 6 else address


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def _printable(connection: HTTPConnection) -> str:
    """Return the path, on one line, without the token in it."""
    path: str = connection.scope["path"]
    return f"{MEDIA_PATH}…" if path.startswith(MEDIA_PATH) else ascii(path[:LONGEST_PATH])[1:-1]
