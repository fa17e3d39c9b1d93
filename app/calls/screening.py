"""Which addresses may call, and how often.

A pattern is an address in which `*` stands for any characters, or none: `+1555*`, `sip:*@example.com`. It matches an
address as it is written or by its name (`app.twilio.parties`), so that a number matches in every way in which it can be
written; case does not matter. Blocked addresses are refused even if they are allowed as well; an empty list of allowed
ones allows all. Callers who withhold their number are one address, `anonymous`.

The times of calls are kept of at most `NUMBERS_KEPT` numbers; beyond that, the one that called longest ago is dropped.
`now` is in seconds, monotonic.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from enum import StrEnum

from app.twilio.parties import ANONYMOUS, cleaned, name_of, names_of

HOUR_S = 3_600.0
NUMBERS_KEPT = 10_000
_NUMBER = re.compile(r"\+?[1-9*][0-9*]*")
_WORD = re.compile(r"[*a-z][^\s,]*")


class ScreeningRefusal(StrEnum):
    BLOCKED = "the number is blocked"
    NOT_ALLOWED = "the number is not among the allowed"
    TOO_OFTEN = "the number has called too often in the last hour"


class Screening:
    """Two lists of patterns and a limit of calls per number per hour, 0 for none."""

    def __init__(self, allowed: Sequence[str], blocked: Sequence[str], per_hour: int) -> None:
        self._allowed, self._blocked = compile_patterns(allowed or ["*"]), compile_patterns(blocked)
        self._per_hour = per_hour
        self._calls_s: OrderedDict[str, deque[float]] = OrderedDict()  # longest ago first

    def refusal(self, number: str, now: float) -> ScreeningRefusal | None:
        """Return why a call from this number is refused, None when it is not."""
        names = names_of(number)
        if any(map(self._blocked.fullmatch, names)):
            return ScreeningRefusal.BLOCKED
        if not any(map(self._allowed.fullmatch, names)):
            return ScreeningRefusal.NOT_ALLOWED
        calls_s = self._calls_s.get(name_of(number))
        if calls_s is not None and len(calls_s) == self._per_hour and now - calls_s[0] < HOUR_S:
            return ScreeningRefusal.TOO_OFTEN
        return None

    def add(self, number: str, now: float) -> None:
        """Count a call that has been accepted."""
        if not self._per_hour:
            return
        number = name_of(number)
        self._calls_s.setdefault(number, deque(maxlen=self._per_hour)).append(now)
        self._calls_s.move_to_end(number)
        if len(self._calls_s) > NUMBERS_KEPT:
            self._calls_s.popitem(last=False)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of a list separated by commas. Raises ValueError for one that no caller could match."""
    return tuple(_parse(part) for part in text.split(",") if cleaned(part))


def _parse(part: str) -> str:
    """Return one pattern as addresses are compared: a number begins with `+`, and a URI has no parameters."""
    pattern = cleaned(part)
    number = re.sub(r"[-.()]", "", pattern)
    if _NUMBER.fullmatch(number):
        return re.sub(r"^(?=\d)", "+", number) if "*" in number else name_of(number)
    if _WORD.fullmatch(pattern):
        return ANONYMOUS if name_of(pattern) == ANONYMOUS else pattern
    raise ValueError(
        f"{part.strip()!r} is no number or address: write +15551234567, +1555*, sip:…, client:…, whatsapp:… or "
        "anonymous, with commas between"
    )


def compile_patterns(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return what matches an address, in small letters, that one of the patterns matches."""
    each = (".*".join(map(re.escape, re.split(r"\*+", pattern))) for pattern in patterns)
    return re.compile("|".join(each) or "(?!)", re.DOTALL)
