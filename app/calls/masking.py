"""Masks digits that are said in a row: card numbers, PINs, phone numbers, as figures or as words.

A run is number words and figures with nothing but fillers between them; from `LEAST_DIGITS` digits on each is written
as `*`. English and French, the languages of Kyutai's models. A word is released once it is known whether it belongs to
such a run, so that a live transcript shows no digit of one.
"""

import re
from collections.abc import Iterable

from app.calls.transcript import Word

LEAST_DIGITS = 4
HOLD_S = 3.0
"""A run ends when no further word of it comes for so long."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ONE_DIGIT = _words(
    "zero oh o nought one two three four five six seven eight nine double hundred thousand "
    "zéro un une deux trois quatre cinq sept huit neuf cent cents mille"
)
TWO_DIGITS = _words(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
    "seventy eighty ninety dix onze douze treize quatorze quinze seize vingt vingts trente quarante cinquante soixante "
    "septante huitante octante nonante triple"
)
"""With the digit behind it "double" makes two digits, "triple" three."""
FILLERS = _words("and dash hyphen space then uh um er euh et puis tiret")
_PARTS = re.compile(r"\d+|[^\W\d_]+")


class DigitMask:
    """The words of one speaker on their way to a transcript; times in seconds of the call's clock."""

    def __init__(self) -> None:
        self._held: list[Word] = []
        self._digits = 0
        self._last_s = 0.0

    def add(self, word: Word) -> list[Word]:
        """Return the words that are known now."""
        if digits := digits_in(word.text):
            self._held.append(word)
            self._digits += digits
            self._last_s = word.stop_s
            return self._release() if self._digits >= LEAST_DIGITS else []
        if self._digits and _is_filler(word.text):
            self._held.append(word)
            return []
        return [*self.flush(), word]

    @property
    def holds(self) -> bool:
        """Whether words wait until it is known what they belong to."""
        return bool(self._held)

    def check(self, now_s: float) -> list[Word]:
        """Return the words of a run that has ended because none has followed."""
        return self.flush() if self._digits and now_s >= self._last_s + HOLD_S else []

    def flush(self) -> list[Word]:
        """End a run; return its words."""
        released, self._digits = self._release(), 0
        return released

    def _release(self) -> list[Word]:
        released, self._held = self._held, []
        return [_mask(word) for word in released] if self._digits >= LEAST_DIGITS else released


def mask_digits(words: Iterable[Word]) -> list[Word]:
    """Return words, those of runs of digits masked."""
    mask = DigitMask()
    return [*(known for word in words for known in mask.add(word)), *mask.flush()]


def digits_in(word: str) -> int:
    """Return how many digits a word says, 0 if it is anything but a number and has no long one in it: DE89370400…"""
    parts = _PARTS.findall(word.lower())
    counts = [_digits(part) for part in parts if part not in FILLERS]
    longest = max((len(part) for part in parts if part.isdecimal()), default=0)
    return sum(counts) if all(counts) or longest >= LEAST_DIGITS else 0


def _digits(part: str) -> int:
    if part.isdecimal():
        return len(part)
    return 2 if part in TWO_DIGITS else int(part in ONE_DIGIT)


def _is_filler(word: str) -> bool:
    """Tell whether a word may stand between digits; punctuation alone may."""
    return all(part in FILLERS for part in _PARTS.findall(word.lower()))


def _mask(word: Word) -> Word:
    return word.replaced(_PARTS.sub(lambda part: "*" * _digits(part[0].lower()) or part[0], word.text))
