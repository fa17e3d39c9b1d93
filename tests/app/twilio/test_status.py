import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.twilio.status import LONGEST_TEXT, CallStatusCallback, StreamStatusCallback, parse_status


@pytest.mark.parametrize(
    ("status", "over"),
    [
        *((status, True) for status in ("completed", "busy", "failed", "no-answer", "canceled")),
        *((status, False) for status in ("queued", "initiated", "ringing", "in-progress")),
    ],
)
def test_the_status_of_a_call(status: str, over: bool) -> None:
    found = parse_status({"CallStatus": status, "CallDuration": "75", "ErrorCode": "13224", "SequenceNumber": "2"})
    assert found == CallStatusCallback(status, 75, 13224, 2)
    assert isinstance(found, CallStatusCallback)
    assert found.over is over


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"StreamError": "31920 - Stream - Handshake Error"}, 31920, "31920 - Stream - Handshake Error"),
        ({"StreamError": "Handshake Error", "ErrorCode": "31920"}, 31920, "31920 Handshake Error"),
        ({"StreamError": "no code in 2 words of 319201"}, None, "no code in 2 words of 319201"),
        ({"ErrorCode": "31920"}, 31920, "31920"),
        ({}, None, ""),
    ],
)
def test_a_stream_that_failed_says_why_with_its_code_once(
    fields: dict[str, str], code: int | None, sentence: str
) -> None:
    found = parse_status({"StreamEvent": "stream-error", "CallStatus": "in-progress", **fields})
    assert found == StreamStatusCallback("stream-error", fields.get("StreamError", ""), code)
    assert isinstance(found, StreamStatusCallback)
    assert found.sentence == sentence


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
