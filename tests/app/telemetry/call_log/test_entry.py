import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.calls.end_reason import EndReason
from app.calls.transfer import Transfer, TransferBy
from app.telemetry.call_log.entry import KILLED, Party, TranscriptWord, merge, read_entry
from app.telemetry.call_log.from_record import ENDED_BY, make_entry
from tests.app.telemetry.call_log.records import ANN, NOON, SERVICE, ZERO, call_record, entry, moshi_frame, stream
from workers.messages import Slot


def test_an_entry_has_the_times_of_the_wall_and_says_who_called_and_who_ended_the_call() -> None:
    made = entry()
    assert [made.reserved_at, made.connected_at, made.started_at, made.ended_at] == [
        NOON + timedelta(seconds=seconds) for seconds in (0, 1, 1.5, 31)
    ]
    assert (made.caller, made.caller_masked) == ("+15550100001", "…0001")
    assert (made.called, made.called_masked, made.direction) == ("+15550100000", "…0000", "inbound")
    assert (made.end_reason, made.ended_by, made.end_detail) == ("caller hung up", Party.CALLER, "bye")
    assert set(ENDED_BY) == set(EndReason)


def test_transcript_and_events_count_from_the_reservation() -> None:
    record = call_record()
    record.persona = "ada"
    record.on_key(1_010.0)
    made = make_entry(record, Slot(2), SERVICE, ZERO)
    assert made.transcript == [(2.0, "Hello.", "moshi", 2.5), (3.5, "Hi", "caller", 3.75)]
    assert made.events == [
        (0.0, "reserved", ""),
        (1.0, "socket opened", ""),
        (1.5, "stream started", ""),
        (1.75, "first sound", ""),
        (10.0, "key pressed", ""),
        (31.0, "ended", "caller hung up (bye)"),
    ]
    assert (made.first_sound_ms, made.persona, made.as_json()["persona"]) == (250.0, "ada", "ada")
    assert made.counters == {"frames_out": 2, "frames_dropped": 0, "overruns": 0, "dtmf": 1}


def test_gaps_are_events_and_counted() -> None:
    record = call_record()
    for reason, began_s, ended_s in (("step: killed by SIGKILL", 1_004.0, 1_007.5), ("decode: hangs", 1_020.0, None)):
        record.on_gap(reason, began_s)
        if ended_s:
            record.on_resumed(30, 2, ended_s)
    made = make_entry(record, Slot(2), SERVICE, ZERO)
    assert [event for event in made.events if event.kind in ("gap", "resumed")] == [
        (4.0, "gap", "step: killed by SIGKILL"),
        (7.5, "resumed", "30 steps known, 2 left out"),
        (20.0, "gap", "decode: hangs"),
    ]
    assert made.counters["resumed"] == 1


def test_transfers_are_events_also_after_the_last_stream() -> None:
    record = call_record()
    refused, answered = (Transfer("+15550100009", TransferBy.KEY, at_s) for at_s in (1_005.0, 1_030.0))
    record.transfers += [refused, answered]
    refused.end("HTTP 500", None, 1_005.5)
    answered.end("completed", 61, 1_100.0)
    answered.end("busy", None, 1_101.0)
    made = make_entry(record, Slot(2), SERVICE, ZERO)
    assert [event for event in made.events if event.at_s >= 5.0] == [
        (5.0, "transfer", "to …0009, by the caller's key"),
        (5.5, "transfer over", "HTTP 500"),
        (30.0, "transfer", "to …0009, by the caller's key"),
        (31.0, "ended", "caller hung up (bye)"),
        (100.0, "transfer over", "completed, 61 s"),
    ]


def test_latency_and_processing_become_percentiles() -> None:
    record = call_record(ended=False)
    for ms in range(1, 101):
        record.on_frame(moshi_frame(took_s=ms / 1000), 1_001.0)
        record.latencies_s.append(ms / 1000)
    made = make_entry(record, Slot(0), SERVICE, ZERO)
    expected = pytest.approx((50.5, 95.05, 99.01), abs=0.01)
    assert (made.processing_p50_ms, made.processing_p95_ms, made.processing_p99_ms) == expected
    assert (made.latency_p50_ms, made.latency_p95_ms, made.latency_p99_ms) == expected


def test_a_killed_call_ends_when_its_service_was_last_alive_and_not_before_it_began() -> None:
    on = replace(entry(ended=False), streams=[stream(1), stream(2, ended=False)])
    assert (on.ended_at, on.end_reason, on.ended_by, on.first_sound_ms) == (None, None, None, None)
    assert (on.processing_p50_ms, on.transcript, on.events) == (None, [], [(0.0, "reserved", "")])
    alive_at = NOON + timedelta(seconds=30)
    killed = on.killed(alive_at)
    assert (killed.ended_at, killed.end_reason, killed.ended_by) == (alive_at, KILLED, "service")
    assert killed.events[-1] == (30.0, "ended", KILLED)
    assert killed.streams == [stream(1), stream(2, ended=False)._replace(ended_at=alive_at, end_reason=KILLED)]
    assert on.killed(NOON - timedelta(seconds=3)).ended_at == NOON


def test_the_entries_of_two_runs_become_one_call() -> None:
    first = replace(entry(), counters={"frames_out": 2, "dtmf": 1}, recording="first", streams=[stream(1)])
    later = NOON + timedelta(seconds=60)
    second = replace(entry(at=later), connected_at=None, latency_p50_ms=None, streams=[stream(1, later)])
    call = merge([replace(first, latency_p50_ms=90.0), second])
    assert [(word.at_s, word.stop_s) for word in call.transcript] == [
        (2.0, 2.5),
        (3.5, 3.75),
        (62.0, 62.5),
        (63.5, 63.75),
    ]
    assert [event.at_s for event in call.events if event.kind in ("reserved", "ended")] == [0.0, 31.0, 60.0, 91.0]
    assert call.counters == {"frames_out": 4, "frames_dropped": 0, "overruns": 0, "dtmf": 1}
    assert [(one.number, one.reserved_at) for one in call.streams] == [(1, NOON), (2, later)]
    assert (call.reserved_at, call.connected_at) == (NOON, first.connected_at)
    assert (call.ended_at, call.recording, call.latency_p50_ms) == (second.ended_at, "first", 90.0)


TEXTS = st.text(max_size=20)


@settings(max_examples=30)
@given(TEXTS, TEXTS, st.lists(st.tuples(st.floats(-1e6, 1e6), TEXTS), max_size=5))
def test_an_entry_survives_its_line(caller: str, detail: str, said: list[tuple[float, str]]) -> None:
    transcript = [TranscriptWord(*piece) for piece in said]
    made = replace(entry(), caller=caller, end_detail=detail, transcript=transcript, streams=[stream(recording=detail)])
    assert "\n" not in made.as_line()
    assert read_entry(made.as_line()) == made


def test_a_line_of_an_earlier_version_is_read() -> None:
    fields = json.loads(replace(entry(), latency_p50_ms=90.0).as_line())
    del fields["recording"], fields["recording_fault"], fields["streams"]
    del fields["transcript"]
    fields["pieces"] = [[2.0, " Hel"], [2.5, "lo."], [9.0, " four one two three"]]
    for percent in (50, 95, 99):
        fields[f"delay_p{percent}_ms"] = fields.pop(f"latency_p{percent}_ms")
    read = read_entry(json.dumps(fields))
    assert replace(read, transcript=[]) == replace(entry(), latency_p50_ms=90.0, transcript=[])
    assert [turn.text for turn in read.turns] == ["Hello.", "* * * *"]
    assert (read.words[0].start_s, read.words[0].stop_s) == (2.0, 2.58)


@pytest.mark.parametrize("refused", ["\0", "\ud800"])
def test_what_a_file_or_a_database_cannot_store_is_left_out_of_texts(refused: str) -> None:
    made = make_entry(call_record(caller=f"{refused}+1{refused}2"), Slot(0), SERVICE, ZERO)
    assert read_entry(made.as_line().encode().decode()).caller.replace("?", "") == "+12"


WHOLE = entry().as_line()


@pytest.mark.parametrize(
    "line", [WHOLE[:1], WHOLE[:200], WHOLE[:-1], "", "{}", "[]", "1", '"a"', "null", json.dumps({"call_sid": ANN})]
)
def test_half_a_line_or_another_one_is_no_entry(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own, pydantic's or ours
        read_entry(line)


def test_json_has_iso_times_and_no_number_in_full() -> None:
    call = replace(entry(), streams=[stream(1), stream(2, NOON + timedelta(seconds=31), ended=False)])
    brief, whole = call.as_json(), call.as_json(whole=True)
    assert brief["reserved_at"] == "2026-01-02T12:00:00+00:00"
    assert not {"caller", "called", "transcript"} & brief.keys()
    assert whole["transcript"][1] == {"speaker": "caller", "text": "Hi", "start_s": 3.5, "stop_s": 3.75}
    assert whole["events"][-1] == {"at_s": 31.0, "kind": "ended", "detail": "caller hung up (bye)"}
    assert whole["streams"][1]["reserved_at"] == "2026-01-02T12:00:31+00:00"
    assert whole["streams"][1]["ended_at"] is None
    json.dumps(whole)
