from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.twilio.voice_query import (
    again_query,
    read_again,
    read_greeting_frames,
    read_persona,
    read_prompt,
    reads_record,
    voice_query,
)


@given(frames=st.none() | st.integers(0, 125), record=st.booleans(), persona=st.text(), prompt=st.text())
def test_what_is_written_is_read_back(frames: int | None, record: bool, persona: str, prompt: str) -> None:
    query = voice_query(frames, record, persona, prompt).removeprefix("?")
    read = read_greeting_frames(query, 125), reads_record(query), read_persona(query), read_prompt(query)
    assert read == (frames, record, persona, prompt)


def test_no_wish_is_no_query() -> None:
    assert voice_query() == ""
    assert voice_query(0, record=True) == "?greeting_frames=0&record=true"


@given(st.text())
def test_whatever_the_query_is_the_greeting_can_be_given_or_it_is_refused(text: str) -> None:
    for query in (text, f"greeting_frames={text}"):
        with suppress(ValueError):
            frames = read_greeting_frames(query, 25)
            assert frames is None or 0 <= frames <= 25


@pytest.mark.parametrize("times", [0, 1, 5])
def test_how_often_a_call_has_come_back_is_read_as_written(times: int) -> None:
    assert read_again(again_query(times).removeprefix("?")) == times


@pytest.mark.parametrize("wrong", ["", "-1", "2.5", "many", "%D9%A3", "9" * 5_000])
def test_a_counter_that_is_no_number_is_none(wrong: str) -> None:
    assert read_again(f"again={wrong}") is None


@pytest.mark.parametrize("query", ["", "record", "record=", "record=false", "record=true&record=no", "recorded=true"])
def test_whoever_does_not_ask_for_a_recording_gets_none(query: str) -> None:
    assert not reads_record(query)


@pytest.mark.parametrize("wrong", ["", "-1", "26", "2.5", "many", "%D9%A3", "9" * 5_000, "1&greeting_frames=99"])
def test_a_greeting_that_cannot_be_given_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="0 to 25"):
        read_greeting_frames(f"greeting_frames={wrong}", 25)
