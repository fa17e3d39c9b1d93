import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calls.masking import HOLD_S, LEAST_DIGITS, DigitMask, mask_digits
from app.calls.transcript import Side, Word


def words(text: str) -> list[Word]:
    return [Word(Side.CALLER, one, index * 0.3, index * 0.3 + 0.2) for index, one in enumerate(text.split())]


def masked(text: str) -> str:
    return " ".join(word.text for word in mask_digits(words(text)))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("My card is 4242 4242 4242 4242, thanks", "My card is **** **** **** ****, thanks"),
        ("it is four two four two", "it is * * * *"),
        ("Four, two, uh, four and two.", "*, *, uh, * and *."),
        ("call five-five-five twelve thirteen now", "call *-*-* ** ** now"),
        ("double oh seven seven", "* * * *"),
        ("my PIN is triple seven four", "my PIN is ** * *"),
        ("call 5 O 7, O", "call * * *, *"),
        ("zéro six douze trente et un", "* * ** ** et *"),
        ("one two three of them", "one two three of them"),
        ("room 12 at 9", "room 12 at 9"),
        ("I have one question and two answers", "I have one question and two answers"),
        ("four two four two and then we eat", "* * * * and then we eat"),
        ("IBAN DE89370400440532013000, or C01X00T47", "IBAN DE********************, or C01X00T47"),
        ("it is PIN4711 12", "it is PIN**** **"),
    ],
)
def test_digits_in_a_row_are_masked(said: str, written: str) -> None:
    assert masked(said) == written


def test_no_digit_of_a_run_is_released_before_it_is_known() -> None:
    mask = DigitMask()
    first, second, third, fourth = words("nine eight seven six")
    assert [mask.add(one) for one in (first, second, third)] == [[], [], []]
    assert [word.text for word in mask.add(fourth)] == ["*"] * 4


def test_a_short_number_is_released_after_a_while() -> None:
    mask = DigitMask()
    [word] = words("three")
    assert mask.add(word) == []
    assert mask.check(word.stop_s + HOLD_S - 0.1) == []
    assert mask.check(word.stop_s + HOLD_S) == [word]


@given(st.lists(st.sampled_from(["4", "17", "four", "ten", "uh", ",", "and", "Hello", "oh"])))
def test_words_keep_their_order_and_runs_show_no_digit(said: list[str]) -> None:
    result = mask_digits(words(" ".join(said)))
    assert [word.start_s for word in result] == [word.start_s for word in words(" ".join(said))]
    unmasked = 0
    for word, one in zip(result, said, strict=True):
        unmasked = 0 if one == "Hello" or "*" in word.text else unmasked
        unmasked += 2 if word.text in ("17", "ten") else word.text in ("4", "four", "oh")
        assert unmasked < LEAST_DIGITS
