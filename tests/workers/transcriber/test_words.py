"""Words and their times by Kyutai's rule, as their Rust server computes it (PERSONAPLEX.md §6).

`rust` is that rule restated for one stream: it counts its own steps, of which ours with frame p is number p + 2.
"""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.transcriber.small import near
from workers.transcriber.words import MOST_PIECES, TimedWord, WordTimer

DELAY = 6
PIECES = {5: " good", 6: " by", 7: "e", 8: " "}


def timer(first_frame: int = 0) -> WordTimer:
    return WordTimer(DELAY, first_frame, lambda token: PIECES.get(token, "?"))


def run(tokens: list[int], first_frame: int = 0) -> list[TimedWord]:
    words = timer(first_frame)
    found = [words.step(token, frame) for frame, token in enumerate(tokens, first_frame)]
    return [word for word in [*found, words.finish()] if word]


def rust(tokens: list[int]) -> Iterator[tuple[str, float]]:
    collected, last_stop_s = "", 0.0
    for done, token in enumerate(tokens, 2):
        if done < DELAY:
            continue
        if token in (0, 3):
            if collected.strip():
                yield collected.strip(), last_stop_s
            collected = ""
        else:
            collected += PIECES[token]
        if token == 0:
            last_stop_s = (done - DELAY) / 12.5
    if collected.strip():
        yield collected.strip(), last_stop_s


@given(st.lists(st.sampled_from([0, 3, 3, 5, 6, 7, 8]), max_size=60))
def test_words_and_starts_are_those_of_the_rust_server(tokens: list[int]) -> None:
    found = run(tokens)
    assert [(word.text, near(word.start_s)) for word in found] == [*rust(tokens)]
    assert all(word.stop_s >= word.start_s for word in found)


def test_a_word_begins_at_the_last_0_and_ends_when_it_is_complete() -> None:
    """Frame 10 is 0.8 s; the text is four frames behind: 0 at step 14 is the moment 0.8 s."""
    tokens = [3] * 14 + [0, 6, 7, 3, 3, 0, 5, 0, 3]
    assert run(tokens) == [
        TimedWord("bye", near(0.8), near(1.04)),
        TimedWord("good", near(1.2), near(1.36)),
    ]


def test_what_is_written_before_the_delay_is_over_is_no_word() -> None:
    assert run([0, 5, 6, 7, 3, 3]) == []
    assert [word.text for word in run([3, 3, 3, 3, 5, 3])] == ["good"]


def test_after_a_gap_times_are_those_of_the_frames() -> None:
    words = timer()
    for frame in range(10):
        words.step(3, frame)
    words.step(0, 104)
    words.step(5, 105)
    assert words.in_word
    assert words.step(3, 106) == TimedWord("good", near(8.0), near(8.16))


def test_a_call_that_begins_late_has_the_calls_clock() -> None:
    (word,) = run([3] * 10 + [0, 5, 3], first_frame=1000)
    assert (word.start_s, word.stop_s) == (near(80.48), near(80.64))


def test_the_last_word_is_not_lost_and_an_endless_one_is_split() -> None:
    assert [word.text for word in run([3] * 8 + [0, 6, 7])] == ["bye"]
    endless = run([3] * 8 + [7] * (2 * MOST_PIECES + 1))
    assert [len(word.text) for word in endless] == [MOST_PIECES, MOST_PIECES, 1]
