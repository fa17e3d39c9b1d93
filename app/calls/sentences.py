"""The sentences that an operator has Moshi say in a stream of a call: their numbers, and which are still to be said."""

from dataclasses import dataclass
from enum import StrEnum

from app.calls.record import CallRecord
from workers.messages import GREETING

MAX_QUEUED = 8
"""Sentences of a call that wait, the one being said included."""
MAX_CHARACTERS = 500


class SayRefusal(StrEnum):
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
    """Those of one stream; `record` counts those of the call."""

    def __init__(self, record: CallRecord) -> None:
        self._record = record
        self._texts = {GREETING: ""}
        """Of those that are still to be said."""

    @property
    def queued(self) -> int:
        """How many an operator wants and are still to be said."""
        return len(self._texts.keys() - {GREETING})

    def add(self, text: str) -> SaySentence:
        """Queue a text. Raises SayRefused if too many wait already."""
        if self.queued >= MAX_QUEUED:
            raise SayRefused(SayRefusal.QUEUE_FULL)
        self._record.sentences += 1
        self._texts[self._record.sentences] = text
        return SaySentence(self._record.sentences, text)

    def cut(self, now: float, greets: bool = False) -> list[SentenceSaid]:
        """End those that are still to be said, and the greeting if the call has one: they are not said whole."""
        greeting = [GREETING] if greets and self._record.greeting_said_s is None else []
        numbers = [*greeting, *(number for number in self._texts if number != GREETING)]
        return [said for number in numbers if (said := self.end(number, False, now))]

    def end(self, number: int, whole: bool, now: float) -> SentenceSaid | None:
        """Return a sentence that is over; None for one that is not to be said, or is over already."""
        text = self._texts.pop(number, None)
        if text is None:
            return None
        if number == GREETING:
            self._record.greeting_said_s = now
        else:
            self._record.on_sentence_said(whole)
        return SentenceSaid(number, text, whole)
