import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calls.record import EndReason
from app.telemetry.call_log.entry import (
    COLUMNS,
    ENDED_BY,
    CallEntry,
    ClockReading,
    Party,
    StreamEntry,
    make_entry,
    read_entry,
)
from app.telemetry.call_log.models import calls, streams
from tests.app.telemetry.call_log.records import ANN, NOON, PLACE, call_record, entry, moshi_frame
from workers.messages import Slot


def test_the_moments_of_a_call_are_told_on_the_wall_clock() -> None:
    kept = entry()
    assert (kept.reserved_at, kept.connected_at, kept.started_at, kept.ended_at) == tuple(
        NOON + timedelta(seconds=seconds) for seconds in (0, 1, 1.5, 31)
    )


def test_numbers_are_kept_in_full_and_masked_apart() -> None:
    kept = entry()
    assert (kept.caller, kept.caller_masked) == ("+15550100001", "…0001")
    assert (kept.called, kept.called_masked) == ("+15550100000", "…0000")
    assert kept.direction == "inbound"


def test_an_entry_says_who_ended_the_call_and_why() -> None:
    kept = entry()
    assert (kept.end_reason, kept.ended_by, kept.end_detail) == ("caller hung up", Party.CALLER, "bye")


def test_somebody_is_responsible_for_every_end() -> None:
    assert set(ENDED_BY) == set(EndReason)


def test_what_was_said_and_what_happened_have_their_times() -> None:
    kept = entry()
    assert kept.pieces == [(2.0, "Hel"), (3.5, "lo.")]
    assert kept.events == [
        (0.0, "reserved", ""),
        (1.0, "socket opened", ""),
        (1.5, "stream started", ""),
        (1.75, "first sound", ""),
        (31.0, "ended", "caller hung up (bye)"),
    ]
    assert kept.first_sound_ms == 250.0
    assert kept.counters == {"frames_out": 2, "frames_dropped": 0, "overruns": 0}


def test_percentiles_are_those_of_the_frames() -> None:
    record = call_record(ended=False)
    for took_ms in range(1, 101):
        record.on_frame(moshi_frame(took_s=took_ms / 1000), 1_001.0)
    kept = make_entry(record, Slot(0), PLACE, ClockReading(1_100.0, NOON))
    assert (kept.processing_p50_ms, kept.processing_p95_ms, kept.processing_p99_ms) == pytest.approx(
        (50.5, 95.05, 99.01), abs=0.01
    )


def test_the_delay_is_kept_in_percentiles() -> None:
    record = call_record(ended=False)
    record.latencies_s.extend(ms / 1000 for ms in range(1, 101))
    kept = make_entry(record, Slot(0), PLACE, ClockReading(1_100.0, NOON))
    assert (kept.delay_p50_ms, kept.delay_p95_ms, kept.delay_p99_ms) == pytest.approx((50.5, 95.05, 99.01), abs=0.01)


def test_of_a_call_that_has_only_begun_the_rest_is_open() -> None:
    kept = entry(ended=False)
    assert (kept.ended_at, kept.end_reason, kept.ended_by, kept.first_sound_ms) == (None, None, None, None)
    assert (kept.processing_p50_ms, kept.pieces, kept.events) == (None, [], [(0.0, "reserved", "")])


def test_there_is_a_column_for_everything_that_is_kept() -> None:
    assert set(COLUMNS) == set(calls.columns.keys()) - {"id"}
    assert {field.name for field in fields(CallEntry)} == {*COLUMNS, "pieces", "events", "streams"}
    assert [field.name for field in fields(StreamEntry)] == streams.columns.keys()[1:]


TEXTS = st.text(max_size=20)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(TEXTS, TEXTS, TIMES, st.lists(st.tuples(st.floats(-1e6, 1e6), TEXTS), max_size=5))
def test_an_entry_survives_its_line(caller: str, detail: str, at: datetime, pieces: list[tuple[float, str]]) -> None:
    streams = [StreamEntry(1, at, at, None, None, None, detail, caller, "")]
    kept = replace(entry(), caller=caller, end_detail=detail, ended_at=at, pieces=pieces, streams=streams)
    line = kept.as_line()
    assert "\n" not in line
    assert read_entry(line) == kept


@given(st.text(st.characters(exclude_categories=())), st.sampled_from("\0\ud800"))
def test_nothing_is_kept_that_a_file_or_a_database_refuses_in_a_text(text: str, refused: str) -> None:
    record = call_record(caller=f"{text}{refused}{text}")
    line = make_entry(record, Slot(0), PLACE, ClockReading(1_100.0, NOON)).as_line()
    assert refused not in read_entry(line.encode().decode()).caller


WHOLE = entry().as_line()


@given(st.integers(0, len(WHOLE) - 1))
def test_half_a_line_is_no_entry(length: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own or ours
        read_entry(WHOLE[:length])


@pytest.mark.parametrize("line", ["{}", "[]", "1", '"a"', "null", json.dumps({"call_sid": ANN})])
def test_a_line_of_something_else_is_no_entry(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_entry(line)


def test_a_key_has_its_time_and_nobody_learns_which_it_was() -> None:
    record = call_record()
    record.on_key(1_010.0)
    kept = make_entry(record, Slot(0), PLACE, ClockReading(1_100.0, NOON + timedelta(seconds=100)))
    assert (10.0, "key pressed", "") in kept.events
    assert kept.events[-1][1] == "ended"
    assert kept.counters["dtmf"] == 1


def test_a_line_of_before_recordings_is_read() -> None:
    fields = json.loads(entry().as_line())
    del fields["recording"], fields["recording_fault"], fields["streams"]
    assert read_entry(json.dumps(fields)) == entry()
