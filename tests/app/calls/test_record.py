import gc
import json
from copy import copy

import numpy as np
import pytest

from app.calls.end_reason import EndReason
from app.calls.record import SPANS_KEPT, CallRecord, Recording
from app.calls.record_json import CallSummary, as_json
from app.calls.transcript import Side, Word
from app.twilio.events import CallSid
from app.twilio.status import CallStatusCallback, StreamStatusCallback
from workers.messages import Epoch, Frame, Slot, Span, Stage

ANN = CallSid("CAann")


def frame(seq: int, text: str = "", dropped: int = 0, sound: bool = True) -> Frame:
    pcm = np.zeros(1_920, np.float32) if sound else None
    return Frame(Slot(0), Epoch(1), seq, pcm, text, dropped, (Span(Stage.STEP, seq, seq + 0.05),))


def test_what_came_with_the_frames_is_taken_down() -> None:
    record = CallRecord(ANN, reserved_s=100.0)
    record.on_frame(frame(0, sound=False), 100.5)
    record.on_frame(frame(1, dropped=2), 101.0)
    record.on_frame(frame(2), 101.1)
    assert record.counts == {"frames_out": 2, "frames_dropped": 2, "overruns": 0}
    assert [spans[0].started_s for spans in record.spans] == [0, 1, 2]


def test_the_words_of_both_sides_are_kept() -> None:
    record = CallRecord(ANN, reserved_s=100.0)
    record.words += [Word(Side.MOSHI, "Hello", 0.5, 0.9), Word(Side.CALLER, "Hi.", 1.0, 1.25)]
    assert as_json(record)["words"] == [("moshi", "Hello", 0.5, 0.9), ("caller", "Hi.", 1.0, 1.25)]
    assert record.transcript == "Hello"


@pytest.mark.parametrize(("took_s", "overruns"), [(0.08, 0), (0.081, 1)])
def test_a_stage_that_takes_longer_than_a_frame_is_an_overrun(took_s: float, overruns: int) -> None:
    record = CallRecord(ANN, reserved_s=0.0)
    spans = (Span(Stage.ENCODE, 0.0, 0.01), Span(Stage.STEP, 0.0, took_s), Span(Stage.DECODE, 0.0, 0.01))
    record.on_frame(Frame(Slot(0), Epoch(1), 0, None, spans=spans), 0.2)
    assert record.counts["overruns"] == overruns


def test_of_a_long_call_the_last_minutes_are_kept() -> None:
    record = CallRecord(ANN, reserved_s=0.0)
    for seq in range(SPANS_KEPT + 10):
        record.on_frame(frame(seq), float(seq))
    assert len(record.spans) == SPANS_KEPT
    assert record.spans[0][0].started_s == 10


def test_the_frames_of_a_call_leave_nothing_to_visit_for_the_garbage_collector() -> None:
    """Of 16 calls of five minutes a full pass would take more than 100 ms, every two minutes."""
    record = CallRecord(ANN, reserved_s=0.0)
    gc.collect()
    before = len(gc.get_objects())
    for seq in range(1_000):
        record.on_frame(frame(seq), float(seq))
    assert len(gc.get_objects()) < before + 100
    kept, copied = (Span(Stage.STEP, 999.0, 999.05),), copy(record.spans)
    record.spans.clear()
    assert (copied[-1], next(reversed(copied)), len(copied), len(record.spans)) == (kept, kept, 1_000, 0)


def test_a_call_that_never_came_reads_as_well() -> None:
    record = CallRecord(ANN, reserved_s=7.0)
    fields = as_json(record)
    assert (fields["started_s"], fields["ended_s"], fields["end"], fields["transcript"]) == (None, None, None, "")


def test_the_record_is_json_with_times_from_the_reservation_on() -> None:
    record = CallRecord(ANN, reserved_s=1_000.0, connected_s=1_001.0, started_s=1_001.5, ended_s=1_009.25)
    record.end, record.detail = EndReason.CALLER_HUNG_UP, "bye"
    record.on_frame(frame(1_002), 1_002.0)
    fields = json.loads(json.dumps(as_json(record)))
    assert (fields["connected_s"], fields["started_s"], fields["ended_s"]) == (1.0, 1.5, 9.25)
    assert (fields["end"], fields["detail"]) == ("caller hung up", "bye")
    assert fields["spans"] == [[["step", 2.0, 2.05]]]


def test_the_summary_of_a_call_says_the_same_in_short() -> None:
    record = CallRecord(ANN, reserved_s=0.0, started_s=1.0, ended_s=2.0, end=EndReason.TIME_LIMIT)
    record.on_frame(frame(0, "Hi"), 1.5)
    fields = as_json(record)
    assert as_json(record, CallSummary) == {name: fields[name] for name in as_json(record, CallSummary)}
    names = ["call_sid", "persona", "started_s", "ended_s", "end", "detail", "status", "error_code", "counts"]
    assert list(as_json(record, CallSummary)) == names


def test_what_twilio_tells_of_the_call_is_kept() -> None:
    record = CallRecord(ANN, reserved_s=0.0)
    for status in (
        CallStatusCallback("ringing"),
        CallStatusCallback("completed", 75),
        StreamStatusCallback("stream-stopped"),
    ):
        record.on_status(status)
    fields = as_json(record)
    assert (fields["status"], fields["duration_s"]) == ("completed", 75)
    assert (fields["error_code"], fields["stream_error"], fields["advice"]) == (None, "", "")


def test_an_error_of_the_stream_is_kept_with_what_to_do() -> None:
    record = CallRecord(ANN, reserved_s=0.0)
    record.on_status(StreamStatusCallback("stream-error", "Handshake Error", 31920))
    record.on_status(CallStatusCallback("completed", 3))
    fields = as_json(record)
    assert (fields["status"], fields["error_code"], fields["stream_error"]) == ("completed", 31920, "Handshake Error")
    assert "PUBLIC_URL" in str(fields["advice"])


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("", "", "no recording"),
        ("20260102T120000Z-CA1", "", "kept in 20260102T120000Z-CA1"),
        ("20260102T120000Z-CA1", "no space", "kept in 20260102T120000Z-CA1; broken off: no space"),
        ("", "no folder", "no folder"),
    ],
)
def test_what_is_recorded_is_said_in_short(name: str, fault: str, said: str) -> None:
    record = CallRecord(ANN, reserved_s=0.0)
    record.open_stream(0.0).recording = Recording(name, fault)
    assert as_json(record)["recording"] == said
