"""Which numbers may call, and how often.

A pattern is a number in which `*` stands for any characters, or for none: `+1555*`. What is blocked is refused, even if
it is allowed as well; an empty list of the allowed is everybody. Capitals do not count. Callers who withhold their
number come as one, `anonymous`, whatever Twilio has for them: a word, or one spelled on the keys, `+266696687`.

A number may be let in so many times in any hour. Of at most `NUMBERS_KEPT` numbers it is known when they called, so
memory is bounded; beyond that the one that called longest ago is forgotten. `now` is in seconds, monotonic.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from enum import StrEnum

HOUR_S = 3_600.0
NUMBERS_KEPT = 10_000
ANONYMOUS = "anonymous"
WITHHELD = {
    *("", ANONYMOUS, "restricted", "unavailable", "unknown", "blocked", "private"),
    *("266696687", "7378742833", "86282452253", "8656696", "2562533"),
}
"""What stands for no number, in small letters and without a plus; the numbers spell the words."""
_PATTERN = re.compile(r"\+[1-9*][0-9*]*|[*a-zA-Z][^\s,]*")


class Refusal(StrEnum):
    """Why a number may not call."""

    BLOCKED = "the number is blocked"
    NOT_ALLOWED = "the number is not among the allowed"
    TOO_OFTEN = "the number has called too often in the last hour"


class Screening:
    """Two lists of patterns and a limit of calls per number per hour, 0 for none."""

    def __init__(
        self, allowed: Sequence[str], blocked: Sequence[str], per_hour: int, numbers_kept: int = NUMBERS_KEPT
    ) -> None:
        self._allowed, self._blocked = _compile(allowed), _compile(blocked)
        self._any_allowed = not allowed
        self._per_hour = per_hour
        self._numbers_kept = numbers_kept
        self._calls_s: OrderedDict[str, deque[float]] = OrderedDict()  # longest ago first

    def refusal(self, number: str, now: float) -> Refusal | None:
        """Return why a call from this number is refused, None when it is not."""
        number = _known_as(number)
        if self._blocked.fullmatch(number):
            return Refusal.BLOCKED
        if not (self._any_allowed or self._allowed.fullmatch(number)):
            return Refusal.NOT_ALLOWED
        calls_s = self._calls_s.get(number)
        if calls_s is not None and len(calls_s) == self._per_hour and now - calls_s[0] < HOUR_S:
            return Refusal.TOO_OFTEN
        return None

    def note(self, number: str, now: float) -> None:
        """Count a call that has been let in."""
        if not self._per_hour:
            return
        number = _known_as(number)
        self._calls_s.setdefault(number, deque(maxlen=self._per_hour)).append(now)
        self._calls_s.move_to_end(number)
        while len(self._calls_s) > self._numbers_kept:
            self._calls_s.popitem(last=False)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of a list separated by commas. Raises ValueError for one that no caller could match."""
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is no number: write +15551234567, +1555* or anonymous, with commas between")
    return patterns


def _known_as(number: str) -> str:
    """Return one name for all who withhold their number, and one for all ways to write the others."""
    small = number.strip().lower()
    return ANONYMOUS if small.removeprefix("+") in WITHHELD else small


def _compile(patterns: Sequence[str]) -> re.Pattern[str]:
    each = (".*".join(map(re.escape, re.split(r"\*+", pattern))) for pattern in patterns)
    return re.compile("|".join(each) or "(?!)", re.DOTALL | re.IGNORECASE)
