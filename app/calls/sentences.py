"""The sentences that an operator has Moshi say in a stream of a call: their numbers, and which are still to be said."""

from dataclasses import dataclass
from enum import StrEnum

from workers.messages import GREETING, Said

MAX_QUEUED = 8
"""Sentences of a call that wait, the one being said included."""
MAX_CHARACTERS = 500


class SayRefusal(StrEnum):
    """Why Moshi says nothing."""

    NOT_LIVE = "the call is not live: its stream has not started, or it is ending"
    IN_GAP = "Moshi does not hear this call at the moment: try again when it goes on"
    OVER = "the call is over"
    QUEUE_FULL = f"{MAX_QUEUED} sentences are queued already: wait until one has been said"


class SayRefused(Exception):
    def __init__(self, reason: SayRefusal) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SaySentence:
    """Have Moshi say a sentence; `number` counts those of the call from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class SentenceSaid:
    """A sentence is over, number 0 for the greeting, whose `text` is ""; not `whole` if words of it are missing."""

    number: int
    text: str
    whole: bool


def clean_sentence(text: str) -> str:
    """Return a text as one line of printable characters, without lone surrogates. Raises ValueError, in one line."""
    clean = "".join(filter(str.isprintable, " ".join(text.split()))).strip()
    if not clean:
        raise ValueError("the text is empty")
    if len(clean) > MAX_CHARACTERS:
        raise ValueError(f"the text has {len(clean)} characters, more than {MAX_CHARACTERS}")
    return clean


class Sentences:
    """Those of one stream."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._is_greeting_said = False

    @property
    def queued(self) -> int:
        """How many are still to be said."""
        return len(self._texts)

    def add(self, sentence: SaySentence) -> None:
        """Raises SayRefused if too many wait already."""
        if len(self._texts) >= MAX_QUEUED:
            raise SayRefused(SayRefusal.QUEUE_FULL)
        self._texts[sentence.number] = sentence.text

    def cut(self) -> list[SentenceSaid]:
        """Return those that are still to be said, and will not be said whole any more."""
        cut = [SentenceSaid(number, text, False) for number, text in self._texts.items()]
        self._texts.clear()
        return cut

    def pop(self, said: Said) -> SentenceSaid | None:
        """Return the sentence that is over; None for one that is not to be said, or is over already."""
        if said.sentence == GREETING:
            is_new, self._is_greeting_said = not self._is_greeting_said, True
            return SentenceSaid(GREETING, "", said.whole) if is_new else None
        text = self._texts.pop(said.sentence, None)
        return None if text is None else SentenceSaid(said.sentence, text, said.whole)
