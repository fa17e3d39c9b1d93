"""Passing a call on to a person: to whom, by whom, and what has become of it.

A call is only passed on to `TRANSFER_TO`, to its persona's `transfer_to`, or to what matches `TRANSFER_ALLOWED`: who
can have a call transferred anywhere can run up its owner's bill.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto

from app.calls.screening import compile_patterns

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_SIP = re.compile(r"sips?:[a-z0-9._+-]{1,64}@[a-z0-9.-]{1,255}(:[0-9]{1,5})?(;transport=(udp|tcp|tls))?", re.IGNORECASE)
MOST_TRANSFERS = 3
"""So often a caller's key has a call transferred: a call that nobody answers comes back."""
WANTED = "write a number as +15551234567 or an address as sip:user@host"


class TransferBy(StrEnum):
    OPERATOR = "an operator"
    KEY = "the caller's key"
    WEBHOOK = "the answer to a webhook"


class TransferRefusal(StrEnum):
    NOT_ON = auto()
    NOT_LIVE = auto()
    NO_TARGET = auto()
    FORBIDDEN = auto()
    NO_ACCOUNT = auto()
    NOT_PLACED = auto()


class TransferRefused(Exception):
    """The message is one line."""

    def __init__(self, reason: TransferRefusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def _ignore(_: "Transfer") -> None:
    pass


@dataclass
class Transfer:
    """`status` is "" until it is over, then Twilio's DialCallStatus, or why Twilio has not placed it.

    `on_end` is called once, when it is over: perhaps an hour after the stream.
    """

    to: str = field(repr=False)
    by: TransferBy
    at_s: float
    on_end: Callable[["Transfer"], None] = field(default=_ignore, repr=False)
    status: str = ""
    duration_s: int | None = None
    ended_s: float | None = None

    def end(self, status: str, duration_s: int | None, now: float) -> None:
        """Set how it ended; what Twilio repeats changes nothing."""
        if self.ended_s is None:
            self.status, self.duration_s, self.ended_s = status, duration_s, now
            on_end, self.on_end = self.on_end, _ignore
            on_end(self)


@dataclass(frozen=True, slots=True)
class AskTransfer:
    """The caller has pressed the key that has them transferred."""


def parse_target(text: str) -> str:
    """Return a number or a SIP address, "" for none. Raises ValueError."""
    target = text.strip()
    if target and not (_NUMBER.fullmatch(target) or _SIP.fullmatch(target)):
        raise ValueError(WANTED)
    return target


class TransferRules:
    """`default` is where calls go that name nobody; `allowed` are patterns as in `screening`."""

    def __init__(self, default: str, allowed: Sequence[str]) -> None:
        self._default, self._allowed = default, compile_patterns(allowed)

    def target(self, wanted: str, of_persona: str) -> str:
        """Return to whom a call goes: `wanted`, else the persona's, else the default. Raises TransferRefused."""
        own = [one for one in (of_persona, self._default) if one]
        if not wanted and not own:
            sentence = "it is not said to whom: neither here, nor by the persona, nor in TRANSFER_TO"
            raise TransferRefused(TransferRefusal.NO_TARGET, sentence)
        try:
            target = parse_target(wanted) or own[0]
        except ValueError as error:
            raise TransferRefused(TransferRefusal.NO_TARGET, str(error)) from None
        if target not in own and not self._allowed.fullmatch(target.lower()):
            raise TransferRefused(TransferRefusal.FORBIDDEN, "TRANSFER_ALLOWED does not allow this number or address")
        return target
