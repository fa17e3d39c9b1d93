"""What both sides say, as words with their times, and as turns.

Moshi's words come from the pieces of its text, whose time is that of the step that yields them; the caller's from the
speech-to-text, with its times. Seconds of the call's clock, which begins with the reservation of its slot. A turn is
the words of one speaker without a long pause; turns of both may overlap, as people do.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from workers.messages import FRAME_S

PAUSE_S = 1.0
"""Without a word for so long, a turn is over."""
MOST_TURN_WORDS = 400
"""A turn without a pause is cut after some minutes."""


class Side(StrEnum):
    CALLER = "caller"
    MOSHI = "moshi"


@dataclass(frozen=True, slots=True)
class Word:
    """`text` without spaces around it."""

    speaker: Side
    text: str
    start_s: float
    stop_s: float

    def replaced(self, text: str) -> "Word":
        return replace(self, text=text)

    def as_json(self) -> tuple[str, str, float, float]:
        return self.speaker, self.text, round(self.start_s, 3), round(self.stop_s, 3)


@dataclass(frozen=True, slots=True)
class Turn:
    """Words of one speaker, one at least, in order."""

    words: tuple[Word, ...]

    @property
    def speaker(self) -> Side:
        return self.words[0].speaker

    @property
    def start_s(self) -> float:
        return self.words[0].start_s

    @property
    def stop_s(self) -> float:
        return self.words[-1].stop_s

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


class PieceWords:
    """Moshi's pieces of text become words: a piece with a space before it begins the next one."""

    def __init__(self) -> None:
        self._text = ""
        self._start_s = self._stop_s = 0.0

    def add(self, piece: str, at_s: float) -> list[Word]:
        """Add the text of the step at `at_s`; return the words that it completes."""
        words = []
        for number, part in enumerate(piece.split(" ")):
            words += self.flush() if number else []
            if part:
                self._start_s = self._start_s if self._text else at_s
                self._text, self._stop_s = self._text + part, at_s + FRAME_S
        return words

    def check(self, now_s: float) -> list[Word]:
        """Return the last word once a pause has followed it."""
        return self.flush() if now_s >= self._stop_s + PAUSE_S / 2 else []

    def flush(self) -> list[Word]:
        """Return the word that has begun, if any."""
        text, self._text = self._text, ""
        return [Word(Side.MOSHI, text, self._start_s, self._stop_s)] if text else []


@dataclass
class TurnBuilder:
    _words: list[Word] = field(default_factory=list)

    def add(self, word: Word) -> list[Turn]:
        """Add a word; return the turn that was over before it."""
        turns = self.check(word.start_s)
        self._words.append(word)
        return turns if len(self._words) < MOST_TURN_WORDS else [*turns, *self.flush()]

    def check(self, now_s: float) -> list[Turn]:
        """Return the turn that a pause has ended."""
        return self.flush() if self._words and now_s >= self._words[-1].stop_s + PAUSE_S else []

    def flush(self) -> list[Turn]:
        """End the turn, as the speech-to-text may tell; return it if there is one."""
        words, self._words = self._words, []
        return [Turn(tuple(words))] if words else []


def turns_of(words: list[Word]) -> list[Turn]:
    """Return the turns of a call in the order in which they began."""
    builders = {speaker: TurnBuilder() for speaker in Side}
    turns = [turn for word in words for turn in builders[word.speaker].add(word)]
    turns += [turn for builder in builders.values() for turn in builder.flush()]
    return sorted(turns, key=lambda turn: turn.start_s)
