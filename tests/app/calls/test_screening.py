import pytest

from app.calls.screening import HOUR_S, NUMBERS_KEPT, Screening, ScreeningRefusal, parse_patterns

ANN, BOB = "+15550100001", "+4930123456"


def refusal(number: str, allowed: str = "", blocked: str = "") -> ScreeningRefusal | None:
    return Screening(parse_patterns(allowed), parse_patterns(blocked), 0).refusal(number, 0.0)


@pytest.mark.parametrize("number", [ANN, "anonymous", ""])
def test_without_lists_everybody_may_call(number: str) -> None:
    assert refusal(number) is None


@pytest.mark.parametrize("pattern", [ANN, "+1555*", "*", "*0001", "+1*01*0001", "+49*, +1555*", "+1555**"])
def test_a_pattern_matches_the_whole_number(pattern: str) -> None:
    assert refusal(ANN, allowed=pattern) is None
    assert refusal(ANN, blocked=pattern) is ScreeningRefusal.BLOCKED


@pytest.mark.parametrize("pattern", ["+1555", "+1555010000", "+49*", "sip:*", "*0002", "anonymous"])
def test_a_pattern_that_is_only_a_part_of_the_number_does_not_match(pattern: str) -> None:
    assert refusal(ANN, allowed=pattern) is ScreeningRefusal.NOT_ALLOWED
    assert refusal(ANN, blocked=pattern) is None


def test_blocked_wins_over_allowed() -> None:
    assert refusal(ANN, allowed="+1*", blocked="+1555*") is ScreeningRefusal.BLOCKED
    assert refusal("+12025550100", allowed="+1*", blocked="+1555*") is None


@pytest.mark.parametrize(
    "number",
    ["+266696687", "266696687", "+7378742833", "+86282452253", "+8656696", "anonymous", "RESTRICTED", "unknown", ""],
)
def test_a_withheld_number_is_one_whatever_twilio_calls_it(number: str) -> None:
    """The numbers spell ANONYMOUS, RESTRICTED, UNAVAILABLE, UNKNOWN on a telephone's keys."""
    assert refusal(number, blocked="anonymous") is ScreeningRefusal.BLOCKED
    assert refusal(number, allowed="+*") is ScreeningRefusal.NOT_ALLOWED
    assert refusal(number, allowed="Anonymous") is None
    screening = Screening((), (), per_hour=1)
    screening.add("anonymous", 0.0)
    assert screening.refusal(number, 1.0) is ScreeningRefusal.TOO_OFTEN


def test_capitals_are_no_way_around_a_list_and_a_dot_is_a_dot() -> None:
    assert refusal("SIP:Eve@Example.COM", blocked="sip:*@example.com") is ScreeningRefusal.BLOCKED
    assert refusal("sip:eve@example.com", blocked="SIP:*") is ScreeningRefusal.BLOCKED
    assert refusal("sip:ann@exampleXcom", blocked="sip:*@example.com") is None


def test_a_list_is_separated_by_commas_and_may_have_spaces_around_them() -> None:
    assert parse_patterns(" +1555* ,, anonymous,") == ("+1555*", "anonymous")
    assert parse_patterns("") == ()


@pytest.mark.parametrize(
    "wrong",
    ["+1555*,0049*", "+0049*", "+", "+１555*", "+155x", "(x)", "+1 555 ann"],
)
def test_what_no_caller_could_match_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        parse_patterns(wrong)


WAYS = ["15550100001", "whatsapp:+15550100001", "sip:+15550100001@gw.example.com;user=phone", "\u202a+1 555 0100001"]


@pytest.mark.parametrize("number", WAYS)
@pytest.mark.parametrize("pattern", [ANN, "15550100001", "+1 (555) 010-0001", "+1555*", "1 555*", "\u200e+15550100001"])
def test_a_number_is_known_in_every_way_in_which_it_can_be_written(number: str, pattern: str) -> None:
    assert refusal(number, blocked=pattern) is ScreeningRefusal.BLOCKED
    assert refusal(number, allowed=pattern) is None
    screening = Screening((), (), per_hour=1)
    screening.add(ANN, 0.0)
    assert screening.refusal(number, 1.0) is ScreeningRefusal.TOO_OFTEN


def test_a_way_can_be_named_and_then_only_it_is_meant() -> None:
    assert refusal("whatsapp:+15550100001", blocked="whatsapp:*") is ScreeningRefusal.BLOCKED
    assert refusal(ANN, blocked="whatsapp:*") is None
    assert (
        refusal("sip:alice@example.com;user=phone", blocked="sip:Alice@example.com;transport=tls")
        is ScreeningRefusal.BLOCKED
    )
    assert refusal("client:ann", allowed="client:ann") is None


def test_a_number_may_call_so_often_in_any_hour() -> None:
    screening = Screening((), (), per_hour=2)
    screening.add(ANN, 0.0)
    assert [screening.refusal(ANN, now) for now in (1.0, 2.0)] == [None, None], "only calls that are accepted count"
    screening.add(ANN, 1_000.0)
    assert screening.refusal(ANN, HOUR_S - 1) is ScreeningRefusal.TOO_OFTEN
    assert screening.refusal(BOB, HOUR_S - 1) is None
    assert screening.refusal(ANN, HOUR_S) is None
    screening.add(ANN, HOUR_S)
    assert screening.refusal(ANN, HOUR_S + 999) is ScreeningRefusal.TOO_OFTEN
    assert screening.refusal(ANN, HOUR_S + 1_000) is None


def test_without_a_limit_nobody_calls_too_often() -> None:
    screening = Screening((), (), per_hour=0)
    screening.add(ANN, 0.0)
    assert screening.refusal(ANN, 1.0) is None


def test_of_however_many_numbers_only_the_last_are_kept() -> None:
    screening = Screening((), (), per_hour=1)
    numbers = [f"+1555{number:07}" for number in range(NUMBERS_KEPT)]
    for number in [ANN, BOB, *numbers[:-1], ANN]:
        screening.add(number, 0.0)
    refused = [screening.refusal(number, 1.0) for number in (ANN, BOB, numbers[0], numbers[-2])]
    assert refused == [ScreeningRefusal.TOO_OFTEN, None, *[ScreeningRefusal.TOO_OFTEN] * 2], "Bob called longest ago"
