"""Spans of calls, read back by OpenTelemetry's own means, and their way to a collector."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.calls.end_reason import ERRORS, EndReason
from app.telemetry.call_log.entry import CallEntry
from app.telemetry.traces import EXPORT_LIMIT_S, CallTraces, add_span
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.records import ANN, BOB, NOON, SERVICE, call_record, entry
from tests.app.telemetry.trace_collector import Collector, collecting, values
from tests.processes.pipeline import PATIENCE_S
from tests.waiting import until
from workers.logging import hiding
from workers.messages import Slot

EXPORT_SOON = ("OTEL_BSP_SCHEDULE_DELAY", "10")
"""Milliseconds between two exports."""
NOON_NS = int(NOON.timestamp()) * 10**9


def span_of(entry: CallEntry) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    add_span(provider.get_tracer("tests"), entry, hiding(()))
    (span,) = exporter.get_finished_spans()
    return span


def test_a_span_lasts_from_the_reservation_to_the_end_with_what_happened_in_between() -> None:
    span = span_of(entry())
    assert (span.start_time, span.end_time) == (NOON_NS, NOON_NS + 31 * 10**9)
    assert [((event.timestamp - NOON_NS) / 1e9, event.name) for event in span.events] == [
        (0.0, "reserved"),
        (1.0, "socket opened"),
        (1.5, "stream started"),
        (1.75, "first sound"),
        (31.0, "ended"),
    ]
    assert span.status.status_code is StatusCode.OK


def test_it_has_figures_and_counts_but_no_number_and_no_word_of_the_call() -> None:
    span = span_of(replace(entry(), end_detail="Twilio: +15550100001 hung up", persona="ada", latency_p50_ms=92.5))
    attributes = dict(span.attributes or {})
    assert attributes["call.from"] == "…0001"
    assert attributes["call.persona"] == "ada"
    assert attributes["call.end.reason"] == "caller hung up"
    assert attributes["call.end.detail"] == "Twilio: …0001 hung up"
    assert attributes["call.latency_p50_ms"] == 92.5
    assert attributes["call.counts.frames_out"] == 2
    assert "5550100001" not in span.to_json()
    assert "Hel" not in span.to_json()
    assert not {"", None} & set(attributes.values())
    assert "call.latency_p95_ms" not in attributes, "there is none"


@pytest.mark.parametrize("reason", EndReason)
def test_an_end_that_nobody_wanted_is_an_error(reason: EndReason) -> None:
    status = span_of(replace(entry(), end_reason=reason)).status
    assert (status.status_code is StatusCode.ERROR, status.description) == (
        (True, reason) if reason in ERRORS else (False, None)
    )


@pytest.fixture(autouse=True)
def _the_last_export_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.traces.STOP_LIMIT_S", PATIENCE_S)


@contextlib.asynccontextmanager
async def exporting(url: str) -> AsyncIterator[CallTraces]:
    traces = CallTraces(url, {"Authorization": "Bearer of-traces"}, SERVICE, hiding(()))
    traces.start()
    try:
        yield traces
    finally:
        await traces.stop()


def sids(collector: Collector) -> list[object]:
    return [values(collector.spans.get_nowait().attributes)["call.sid"] for _ in range(collector.spans.qsize())]


async def test_a_call_that_has_ended_is_one_span_and_one_that_is_on_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*EXPORT_SOON)
    with collecting() as collector:
        async with exporting(collector.url) as traces:
            traces.add(call_record(BOB, ended=False), Slot(0))
            traces.add(call_record(ANN), Slot(0))
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


async def test_what_is_left_at_the_end_is_exported_then() -> None:
    calls = [CallSid(f"CA{number:032d}") for number in range(100)]
    with collecting() as collector:
        async with exporting(collector.url) as traces:
            for call_sid in calls:
                traces.add(call_record(call_sid), Slot(0))
        assert sids(collector) == calls
        assert traces.lost == 0


async def test_spans_that_a_collector_does_not_accept_are_counted_and_the_log_has_a_line_for_each_change(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*EXPORT_SOON)
    with collecting() as collector, caplog.at_level(logging.INFO):
        collector.status = 400
        async with exporting(collector.url) as traces:
            for asked in (1, 2):
                traces.add(call_record(ANN), Slot(0))
                await until(lambda: traces.lost == asked)  # noqa: B023 - before the next one
            collector.status = 200
            traces.add(call_record(BOB), Slot(0))
        assert sids(collector) == [BOB]
        assert traces.lost == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the collector at TRACES_ENDPOINT does not accept spans; they are lost until it does",
        "the collector at TRACES_ENDPOINT accepts spans again",
    ]


@pytest.mark.parametrize("listens", [False, True], ids=["away", "never answers"])
async def test_a_collector_without_answers_does_not_keep_the_service_from_its_end(
    listens: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PATIENCE_S < EXPORT_LIMIT_S
    monkeypatch.setattr("app.telemetry.traces.STOP_LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        if not listens:
            deaf.close()
        async with asyncio.timeout(PATIENCE_S), exporting(f"http://127.0.0.1:{port}/v1/traces") as traces:
            for _ in range(3):
                traces.add(call_record(ANN), Slot(0))
    assert len(caplog.records) <= 1
