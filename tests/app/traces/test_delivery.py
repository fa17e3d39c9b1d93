"""Spans on their way to a collector that is there, is not, or comes back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from app.traces import delivery
from app.traces.delivery import BATCH, RECORDS_WAITING, SPANS_WAITING, CallTraces
from app.twilio.events import CallSid
from tests.app.calllog.records import ANN, BOB, PLACE, call_record
from tests.app.traces.collector import Collector, collecting, values
from tests.processes.pipeline import PATIENCE_S
from workers.lines import hiding
from workers.messages import Slot

NOWHERE = "http://127.0.0.1:9/v1/traces"


def traces_to(url: str) -> CallTraces:
    return CallTraces(url, {"Authorization": "Bearer of-traces"}, PLACE, hiding(()))


@contextlib.asynccontextmanager
async def delivering(url: str) -> AsyncIterator[CallTraces]:
    traces = traces_to(url)
    traces.start()
    try:
        yield traces
    finally:
        await traces.stop()


def sids(collector: Collector, count: int) -> list[object]:
    """Wait for so many spans; return their call SIDs."""
    spans = [collector.spans.get(timeout=PATIENCE_S) for _ in range(count)]
    return [values(span.attributes)["call.sid"] for span in spans]


async def test_a_call_that_has_ended_is_one_span_and_one_that_is_on_is_none() -> None:
    with collecting() as collector:
        async with delivering(collector.url) as traces:
            traces.keep(call_record(BOB, ended=False), Slot(0))
            traces.keep(call_record(ANN), Slot(0))
            span = await asyncio.to_thread(collector.spans.get, timeout=PATIENCE_S)
    assert collector.spans.empty()
    assert span.name == "call"
    assert values(span.attributes)["call.sid"] == ANN
    assert [event.name for event in span.events][-1] == "ended"
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(31.0)
    assert len(span.trace_id) == 16
    assert not span.parent_span_id
    assert collector.headers["authorization"] == "Bearer of-traces"
    assert collector.resources[0]["service.name"] == "moshi-bridge"


async def test_what_is_handed_over_before_the_end_is_delivered_at_the_end() -> None:
    calls = [CallSid(f"CA{number:032d}") for number in range(2 * BATCH + 1)]
    with collecting() as collector:
        async with delivering(collector.url) as traces:
            for call_sid in calls:
                traces.keep(call_record(call_sid), Slot(0))
        assert sids(collector, len(calls)) == calls
        assert traces.lost == 0


async def test_a_collector_that_fails_gets_everything_once_it_is_back_and_the_log_says_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "PAUSE_S", 0.01)
    with collecting() as collector, caplog.at_level(logging.INFO):
        collector.status = 400
        async with delivering(collector.url) as traces:
            traces.keep(call_record(ANN), Slot(0))
            async with asyncio.timeout(PATIENCE_S):
                while collector.asked < 3:  # noqa: ASYNC110 - the collector is in a thread
                    await asyncio.sleep(0.01)
            traces.keep(call_record(BOB), Slot(0))
            collector.status = 200
            assert await asyncio.to_thread(sids, collector, 2) == [ANN, BOB]
    assert collector.spans.empty()
    assert [record.getMessage() for record in caplog.records] == [
        f"traces are not taken at TRACES_ENDPOINT; they wait, {SPANS_WAITING} at most",
        "traces are taken again",
    ]


async def test_nobody_there_is_nothing_to_a_call_nor_to_the_end_of_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with delivering(NOWHERE) as traces:
        for _ in range(3):
            traces.keep(call_record(ANN), Slot(0))
    assert not traces._thread.is_alive()
    assert len(caplog.records) <= 1


async def test_calls_that_no_thread_takes_are_bounded_and_counted() -> None:
    traces = traces_to(NOWHERE)
    for _ in range(RECORDS_WAITING + 5):
        traces.keep(call_record(ANN), Slot(0))
    assert traces.lost == 5


async def test_of_spans_that_wait_the_oldest_are_lost() -> None:
    traces = traces_to(NOWHERE)
    for number in range(2):
        for place in range(SPANS_WAITING // 2 + 1):
            traces.keep(call_record(CallSid(f"CA{number}{place}")), Slot(0))
        traces._take(traces._inbox.get())
    assert traces.lost == 2
    assert traces._waiting[0].attributes is not None
    assert traces._waiting[0].attributes["call.sid"] == "CA02"
