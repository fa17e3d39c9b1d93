from dataclasses import replace
from datetime import timedelta

import pytest

from app.call.record import EndReason
from app.service.observer import ERRORS
from app.traces.span import span_of
from tests.app.calllog.records import NOON, entry
from workers.lines import hiding

HIDE = hiding(())
NOON_NS = int(NOON.timestamp()) * 10**9


def test_a_span_lasts_from_the_reservation_to_the_end_with_what_happened_in_between() -> None:
    span = span_of(entry(), HIDE)
    assert (span.began_ns, span.ended_ns) == (NOON_NS, NOON_NS + 31 * 10**9)
    assert [((at_ns - NOON_NS) / 1e9, name) for at_ns, name in span.events] == [
        (0.0, "reserved"),
        (1.0, "socket opened"),
        (1.5, "stream started"),
        (1.75, "first sound"),
        (31.0, "ended"),
    ]
    assert span.fault == ""


def test_it_has_figures_and_counts_but_no_number_and_no_word_of_the_call() -> None:
    span = span_of(replace(entry(), end_detail="Twilio: +15550100001 hung up", delay_p50_ms=92.5), HIDE)
    assert span.attributes["call.from"] == "…0001"
    assert span.attributes["call.end.reason"] == "caller hung up"
    assert span.attributes["call.end.detail"] == "Twilio: …0001 hung up"
    assert span.attributes["call.delay_p50_ms"] == 92.5
    assert span.attributes["call.counts.frames_out"] == 2
    told = str(span)
    assert "5550100001" not in told
    assert "Hel" not in told
    assert all(value != "" for value in span.attributes.values())


@pytest.mark.parametrize("reason", EndReason)
def test_an_end_that_nobody_wanted_is_a_fault(reason: EndReason) -> None:
    span = span_of(replace(entry(), end_reason=reason), HIDE)
    assert span.fault == (reason if reason in ERRORS else "")


def test_a_call_without_a_stream_has_a_span_too() -> None:
    bare = replace(entry(), events=[(0.0, "reserved", ""), (20.0, "ended", "")], delay_p50_ms=None)
    span = span_of(replace(bare, ended_at=NOON + timedelta(seconds=20)), HIDE)
    assert "call.delay_p50_ms" not in span.attributes
    assert len(span.events) == 2
