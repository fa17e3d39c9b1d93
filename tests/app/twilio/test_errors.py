import pytest

from app.twilio.errors import MEANINGS, explain


@pytest.mark.parametrize("code", MEANINGS)
def test_every_code_is_one_line_of_what_happened_and_what_to_do(code: int) -> None:
    line = explain(code)
    assert line.startswith(f"{code}: ")
    assert "\n" not in line
    assert "; " in MEANINGS[code]


@pytest.mark.parametrize(
    "code",
    [
        *(20003, 20404, 21210, 21211, 21212, 21214, 21215, 21216, 21219, 21220, 10004, 11200, 11205),
        *(31901, 31903, 31910, 31920, 31921, 31922, 31924, 31930, 31931, 31941, 31950, 31951),
    ],
)
def test_what_can_happen_to_a_bridge_is_known(code: int) -> None:
    assert code in MEANINGS


def test_a_code_that_is_not_known_is_to_be_looked_up() -> None:
    assert explain(99999) == "99999: see https://www.twilio.com/docs/api/errors/99999"
