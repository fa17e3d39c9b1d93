from collections import deque
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.speaker import forced_text
from workers.engine.steering import (
    FREE,
    SENTENCE_WITHIN_STEPS,
    WORD_WITHIN_STEPS,
    SentenceEnd,
    Steering,
    WordPart,
)

PADDING, WORD, CONTINUATION = 3, 100, 101
"""What a model samples by itself: no word, the beginning of a word, a piece that goes on with one."""


PARTS = {WORD: WordPart.BEGINNING, CONTINUATION: WordPart.CONTINUATION}


def run(steering: Steering, sampled: Iterator[int], steps: int) -> tuple[list[int], list[SentenceEnd]]:
    texts, over = [], []
    for _ in range(steps):
        texts.append(forced_text(steering.next(), token := next(sampled), PARTS.get(token, WordPart.NONE)))
        over += steering.advance(texts[-1])
    return texts, over


def forever(*tokens: int) -> Iterator[int]:
    while True:
        yield from tokens


def test_words_take_the_place_of_the_models_own() -> None:
    steering = Steering()
    steering.add(7, [[10], [11, 12]])
    texts, over = run(steering, forever(PADDING, PADDING, WORD), 9)
    assert texts == [PADDING, PADDING, 10, PADDING, PADDING, 11, 12, PADDING, WORD]
    assert over == [SentenceEnd(7, whole=True)]
    assert steering.sentence is None
    assert steering.next() == FREE


def test_the_models_own_word_is_finished_before_the_first() -> None:
    steering = Steering()
    steering.add(1, [[10], [11]])
    texts, _ = run(steering, iter([CONTINUATION, CONTINUATION, WORD, CONTINUATION, WORD]), 5)
    assert texts == [CONTINUATION, CONTINUATION, 10, PADDING, 11]


def test_a_model_that_begins_no_word_is_made_to() -> None:
    steering = Steering()
    steering.add(1, [[10], [11]])
    texts, over = run(steering, forever(PADDING), 2 * WORD_WITHIN_STEPS + 4)
    once = [PADDING] * WORD_WITHIN_STEPS
    assert texts == [*once, 0, 10, *once, 0, 11]
    assert over == [SentenceEnd(1, whole=True)]


def test_a_sentence_that_takes_too_long_is_cut_between_words() -> None:
    steering = Steering()
    steering.add(1, [[10, 11]] * SENTENCE_WITHIN_STEPS)
    texts, over = run(steering, forever(WORD), SENTENCE_WITHIN_STEPS + 3)
    assert over == [SentenceEnd(1, whole=False)]
    assert texts.count(10) == texts.count(11) == SENTENCE_WITHIN_STEPS // 2
    assert texts[-1] == WORD


words = st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=5), max_size=6)


@given(st.lists(words, max_size=4), st.lists(st.sampled_from([0, PADDING, WORD, CONTINUATION]), min_size=1))
def test_every_word_is_said_once_and_whole(sentences: list[list[list[int]]], sampled: list[int]) -> None:
    steering = Steering()
    for number, sentence in enumerate(sentences):
        steering.add(number, sentence)
    pieces = sum(len(word) for sentence in sentences for word in sentence)
    texts, over = run(steering, forever(*sampled), (WORD_WITHIN_STEPS + 2) * (pieces + 1))
    assert over == [SentenceEnd(number, whole=True) for number in range(len(sentences))]
    rest = deque(token for token in texts if 4 <= token < WORD)
    assert list(rest) == [token for sentence in sentences for word in sentence for token in word]
    for word in (word for sentence in sentences for word in sentence if len(word) > 1):
        assert any(texts[at : at + len(word)] == word for at in range(len(texts)))
