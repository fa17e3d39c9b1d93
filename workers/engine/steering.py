"""Sentences that Moshi is to say word for word.

Moshi's text stream is its inner monologue: it speaks what stands there. Where the model would begin a word, the first
piece of the next word wanted takes its place, and the word's other pieces follow step by step; between words the model
chooses the pauses itself. A model that begins no word for `WORD_WITHIN_STEPS` is made to begin one. After the last
piece it is free again, but for adding to that word.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from workers.engine.delay_pattern import TEXT_END_OF_PADDING, TEXT_PADDING

WORD_WITHIN_STEPS = 12
"""About a second; in fluent speech a word begins every three to four steps."""
SENTENCE_WITHIN_STEPS = 750
"""A minute; what has not been said by then is left out."""
Word = Sequence[int]
"""The text tokens of a word."""


class ForceMode(IntEnum):
    """What takes the place of the text token that was sampled."""

    FREE = 0
    ALWAYS = 1
    AT_WORD = 2
    """Only where a word begins; padding and the pieces that go on with the model's own word stay."""
    AT_NEXT_WORD = 3
    """Only where a word begins; padding stays, and what would be added to the word just said becomes padding."""
    AFTER_WORD = 4
    """What would be added to the word just said becomes padding; all else stays."""


class WordPart(IntEnum):
    """What a text token is to a word."""

    NONE = 0
    """Padding, or a control piece."""
    BEGINNING = 1
    CONTINUATION = 2


class Force(NamedTuple):
    """What a step does with the text token of a row."""

    token: int
    mode: ForceMode


FREE = Force(TEXT_PADDING, ForceMode.FREE)
AFTER_WORD = Force(TEXT_PADDING, ForceMode.AFTER_WORD)


@dataclass(frozen=True, slots=True)
class SentenceEnd:
    """A sentence is over; `whole` unless words were left out because it took too long."""

    sentence: int
    whole: bool


class _Piece(NamedTuple):
    token: int
    begins_word: bool


class Steering:
    """The sentences that wait in one call, in their order. Before each step ask `next`, after it call `advance`."""

    def __init__(self) -> None:
        self._sentences: deque[tuple[int, deque[_Piece]]] = deque()
        self._begun = False
        """The last word was one of ours."""
        self._steps = self._waited = 0

    @property
    def sentence(self) -> int | None:
        """The number of the sentence that is being said, None for none."""
        return self._sentences[0][0] if self._sentences else None

    def add(self, sentence: int, words: Sequence[Word]) -> None:
        """Say these words after those that wait already."""
        pieces = deque(_Piece(token, index == 0) for word in words for index, token in enumerate(word))
        if not self._sentences:
            self._waited = 0
        self._sentences.append((sentence, pieces))

    def next(self) -> Force:
        """Return what to do with the next text token."""
        piece = self._sentences[0][1][0] if self._sentences and self._sentences[0][1] else None
        if not piece:
            return AFTER_WORD if self._begun else FREE
        if piece.begins_word and self._waited < WORD_WITHIN_STEPS:
            return Force(piece.token, ForceMode.AT_NEXT_WORD if self._begun else ForceMode.AT_WORD)
        if piece.begins_word and self._waited == WORD_WITHIN_STEPS:
            return Force(TEXT_END_OF_PADDING, ForceMode.ALWAYS)
        return Force(piece.token, ForceMode.ALWAYS)

    def advance(self, text: int) -> list[SentenceEnd]:
        """Handle the text token that came of `next`; return the sentences that are over."""
        over: list[SentenceEnd] = []
        if self._sentences:
            self._count(self._sentences[0][1], text)
        elif self._begun:
            self._waited += 1
            own_word = text not in (TEXT_END_OF_PADDING, TEXT_PADDING)
            self._begun = not own_word and self._waited < WORD_WITHIN_STEPS
        while self._sentences and (ended := self._ended(*self._sentences[0])):
            over.append(ended)
            self._sentences.popleft()
            self._steps = self._waited = 0
        return over

    def _count(self, pieces: deque[_Piece], text: int) -> None:
        self._steps += 1
        if pieces and text == pieces[0].token:
            pieces.popleft()
            self._begun, self._waited = True, 0
        else:
            self._waited += 1

    def _ended(self, sentence: int, pieces: deque[_Piece]) -> SentenceEnd | None:
        if not pieces:
            return SentenceEnd(sentence, whole=True)
        late = self._steps >= SENTENCE_WITHIN_STEPS and pieces[0].begins_word
        return SentenceEnd(sentence, whole=False) if late else None
