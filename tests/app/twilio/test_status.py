import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.twilio.status import LONGEST_TEXT, CallStatusCallback, StreamStatusCallback, parse_status


@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
def test_the_end_of_a_call_has_its_length(status: str) -> None:
    ended = parse_status({"CallStatus": status, "CallDuration": "75"})
    assert ended == CallStatusCallback(status, 75)
    assert isinstance(ended, CallStatusCallback)
    assert ended.over


@pytest.mark.parametrize("status", ["queued", "initiated", "ringing", "in-progress"])
def test_a_call_that_goes_on_is_not_over(status: str) -> None:
    going = parse_status({"CallStatus": status})
    assert going == CallStatusCallback(status)
    assert isinstance(going, CallStatusCallback)
    assert not going.over


def test_a_call_may_fail_with_a_code() -> None:
    assert parse_status({"CallStatus": "failed", "ErrorCode": "13224"}) == CallStatusCallback("failed", None, 13224)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"StreamError": "31920 - Stream - WebSocket - Handshake Error"}, 31920),
        ({"StreamError": "Handshake Error", "ErrorCode": "31920"}, 31920),
        ({"StreamError": "no code in 2 words of 319201"}, None),
        ({}, None),
    ],
)
def test_a_stream_that_failed_says_why(fields: dict[str, str], code: int | None) -> None:
    told = parse_status({"StreamEvent": "stream-error", "CallStatus": "in-progress", **fields})
    assert told == StreamStatusCallback("stream-error", fields.get("StreamError", ""), code)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        ("31920 Handshake Error", 31920, "31920 Handshake Error"),
        ("Handshake Error", 31920, "31920 Handshake Error"),
        ("", 31920, "31920"),
        ("Handshake Error", None, "Handshake Error"),
    ],
)
def test_an_error_is_reported_with_its_code_once(error: str, code: int | None, sentence: str) -> None:
    assert StreamStatusCallback("stream-error", error, code).sentence == sentence


@pytest.mark.parametrize("duration", ["", "soon", "-5", "1e9", "9" * 400, "٣"])
def test_a_length_that_is_no_number_is_none(duration: str) -> None:
    assert parse_status({"CallStatus": "completed", "CallDuration": duration}) == CallStatusCallback("completed")


def test_a_callback_that_says_nothing_is_nothing() -> None:
    assert parse_status({"CallSid": "CA1"}) is None


NAMES = st.sampled_from(["CallStatus", "StreamEvent", "StreamError", "ErrorCode", "CallDuration"])


@given(st.dictionaries(NAMES, st.text(max_size=500)))
def test_whatever_a_callback_says_it_fits_on_a_line(fields: dict[str, str]) -> None:
    match parse_status(fields):
        case CallStatusCallback(text) | StreamStatusCallback(text):
            assert len(text) <= LONGEST_TEXT
            assert text.isprintable()
