import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.session_cookie import VALID_FOR_S, SessionCookie

TOKEN, NOW_S = "a-long-operator-token", 1_700_000_000.5
INS = SessionCookie(TOKEN)
GOOD = INS.issue(NOW_S)


def test_a_cookie_is_good_for_its_time_and_no_longer() -> None:
    assert INS.accepts(GOOD, NOW_S)
    assert INS.accepts(GOOD, NOW_S + VALID_FOR_S - 1)
    assert not INS.accepts(GOOD, NOW_S + VALID_FOR_S)


def test_a_cookie_outlives_the_process_that_issued_it_but_not_the_token() -> None:
    assert SessionCookie(TOKEN).accepts(GOOD, NOW_S)
    assert not SessionCookie(TOKEN + "2").accepts(GOOD, NOW_S)


def test_no_cookie_tells_the_token() -> None:
    assert TOKEN not in GOOD


def test_who_moves_the_end_of_his_cookie_breaks_its_seal() -> None:
    until, _, seal = GOOD.partition(".")
    assert not INS.accepts(f"{int(until) + 1}.{seal}", NOW_S)


@given(st.text() | st.builds("{}.{}".format, st.integers(), st.text()))
def test_nothing_else_is_a_cookie(value: str) -> None:
    assert not INS.accepts(value, NOW_S)


@pytest.mark.parametrize("value", ["", ".", GOOD])
def test_without_a_token_there_are_no_cookies(value: str) -> None:
    assert not SessionCookie("").accepts(value, NOW_S)
    assert not SessionCookie("").accepts(SessionCookie("").issue(NOW_S), NOW_S)


@given(st.text())
def test_the_token_opens_and_nothing_else(text: str) -> None:
    assert INS.is_token(TOKEN)
    assert INS.is_token(text) == (text == TOKEN)
    assert not SessionCookie("").is_token(text)
