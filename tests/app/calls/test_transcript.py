from hypothesis import given
from hypothesis import strategies as st

from app.calls.transcript import PAUSE_S, PieceWords, Side, TurnBuilder, Word, turns_of


def caller(text: str, start_s: float, stop_s: float) -> Word:
    return Word(Side.CALLER, text, start_s, stop_s)


def test_pieces_become_words_at_each_space() -> None:
    pieces = PieceWords()
    assert pieces.add(" Hel", 0.0) == []
    assert pieces.add("lo,", 0.08) == []
    assert pieces.add(" you", 0.16) == [Word(Side.MOSHI, "Hello,", 0.0, 0.16)]
    assert pieces.flush() == [Word(Side.MOSHI, "you", 0.16, 0.24)]


def test_a_word_is_complete_after_half_a_pause() -> None:
    pieces = PieceWords()
    pieces.add(" Yes", 1.0)
    assert pieces.check(1.5) == []
    assert pieces.check(1.6) == [Word(Side.MOSHI, "Yes", 1.0, 1.08)]


@given(st.lists(st.text(" ab", max_size=6)))
def test_no_letter_is_lost_or_moved(texts: list[str]) -> None:
    pieces = PieceWords()
    words = [word for step, text in enumerate(texts) for word in pieces.add(text, step * 0.08)] + pieces.flush()
    assert [word.text for word in words] == "".join(texts).split()


def test_a_pause_ends_a_turn() -> None:
    turns = TurnBuilder()
    assert turns.add(caller("I", 0.0, 0.2)) == []
    assert turns.add(caller("see", 0.3, 0.5)) == []
    assert turns.check(0.5 + PAUSE_S - 0.01) == []
    [turn] = turns.check(0.5 + PAUSE_S)
    assert (turn.text, turn.start_s, turn.stop_s, turn.speaker) == ("I see", 0.0, 0.5, Side.CALLER)


def test_a_word_after_a_pause_begins_a_turn() -> None:
    turns = TurnBuilder()
    turns.add(caller("Yes", 0.0, 0.2))
    [turn] = turns.add(caller("No", 5.0, 5.2))
    assert turn.text == "Yes"


def test_turns_of_both_sides_are_in_the_order_of_their_beginnings() -> None:
    words = [
        Word(Side.MOSHI, "Hello", 0.0, 0.4),
        caller("Hi", 0.3, 0.5),
        Word(Side.MOSHI, "there", 0.5, 0.9),
        caller("yes", 4.0, 4.2),
    ]
    assert [(turn.speaker, turn.text) for turn in turns_of(words)] == [
        ("moshi", "Hello there"),
        ("caller", "Hi"),
        ("caller", "yes"),
    ]
