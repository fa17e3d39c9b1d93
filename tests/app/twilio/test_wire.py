from collections.abc import Callable

import pytest

from app.twilio.wire import (
    Fields,
    ProtocolViolation,
    Reason,
    read_count,
    read_message,
    read_payload,
    read_text,
    read_texts,
)

LIMIT = 65_536


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{}", Reason.BINARY_FRAME),
        ("", Reason.NOT_JSON),
        ("{", Reason.NOT_JSON),
        ('{"a": NaN}', Reason.NOT_JSON),
        ('{"a": -Infinity}', Reason.NOT_JSON),
        ('{"a": ' + "1" * 5_000 + "}", Reason.NOT_JSON),
        ("[" * 60_000, Reason.NOT_JSON),
        ('{"a":' * 10_000, Reason.NOT_JSON),
        ("\ud800", Reason.NOT_JSON),
        ("[]", Reason.NOT_AN_OBJECT),
        ("null", Reason.NOT_AN_OBJECT),
        ('"{}"', Reason.NOT_AN_OBJECT),
        ("{}".ljust(LIMIT + 1), Reason.TOO_LARGE),
        ('{"a":"' + "é" * (LIMIT // 2) + '"}', Reason.TOO_LARGE),
    ],
)
def test_what_is_no_message_is_refused(message: str | bytes, reason: Reason) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read_message(message, LIMIT)
    assert caught.value.reason is reason


def test_a_message_may_be_exactly_as_long_as_the_limit() -> None:
    assert read_message("{}".ljust(LIMIT), LIMIT) == {}


@pytest.mark.parametrize(("value", "count"), [("0", 0), ("20", 20), ("007", 7), (5, 5), ("9" * 12, 10**12 - 1)])
def test_a_count_is_decimal_digits(value: object, count: int) -> None:
    assert read_count({"n": value}, "n") == count


def test_parameters_may_be_any_unicode_or_missing() -> None:
    assert read_texts({"p": {"naïve": "two\nlines", "empty": ""}}, "p") == {"naïve": "two\nlines", "empty": ""}
    assert read_texts({}, "p") == {}


NO_COUNTS = (None, "", "-1", "+1", "1.5", " 1", "1e3", "٣", "²", "9" * 13, -1, 1.0, True, 10**12)
NO_TEXTS_FOR_A_LOG_LINE = (None, "", 5, "two\nlines", "\ud800", "a\x00")
NO_PARAMETERS: tuple[object, ...] = (None, [], {"a": 5}, {"a": "\udfff"}, {"\ud800": "a"})
NO_BASE64 = (None, 5, "A", "AA=", "AA", "AA==AA==", "A*==", "AAAA\n", "ÄÄÄÄ", "AA===")


@pytest.mark.parametrize(
    ("read", "value", "reason"),
    [
        *((read_count, value, Reason.BAD_FIELD) for value in NO_COUNTS),
        *((read_text, value, Reason.BAD_FIELD) for value in NO_TEXTS_FOR_A_LOG_LINE),
        *((read_texts, value, Reason.BAD_FIELD) for value in NO_PARAMETERS),
        *((read_payload, value, Reason.BAD_PAYLOAD) for value in NO_BASE64),
    ],
)
def test_a_value_of_another_type_is_refused(
    read: Callable[[Fields, str], object], value: object, reason: Reason
) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read({"key": value}, "key")
    assert caught.value.reason is reason
