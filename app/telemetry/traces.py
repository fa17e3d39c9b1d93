"""Traces: one OpenTelemetry span a call, made from its call log entry when it is over, exported over OTLP/HTTP.

Imported only when TRACES_ENDPOINT is set. The SDK's batch processor exports in a thread of its own; the exporter
retries with exponential back-off. A span has no full phone number, no words and no keys.
"""

import asyncio
import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from app.calls.end_reason import ERRORS, EndReason
from app.calls.record import CallRecord
from app.telemetry.call_log.entry import LATENCIES, PROCESSING, CallEntry
from app.telemetry.call_log.from_record import ServiceIdentity, clock_zero, make_entry
from workers.logging import Hide
from workers.messages import Slot

log = logging.getLogger(__name__)

EXPORT_LIMIT_S = 35.0
"""For one batch with its retries; the exporter's five waits of 1, 2, 4, 8 and 16 s fit in."""
STOP_LIMIT_S = 3.0


class CallTraces:
    """Makes the spans of calls that have ended and exports them."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], service: ServiceIdentity, hide: Hide) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs each failure; `_Exporter` logs changes
        self._exporter = _Exporter(endpoint, headers=dict(headers), timeout=EXPORT_LIMIT_S)
        resource = Resource({"service.name": "moshi-bridge", "service.instance.id": uuid.uuid4().hex})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._executor = ThreadPoolExecutor(1, "traces")
        self._service, self._hide = service, hide

    @property
    def lost(self) -> int:
        return self._exporter.lost

    def start(self) -> None:
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    def add(self, record: CallRecord, slot: Slot) -> None:
        """Make the span of a call that has ended, in another thread: that takes 10 ms after an hour's call."""
        if record.end is not None:
            self._executor.submit(self._make_span, record.copy(), slot, clock_zero())

    async def stop(self) -> None:
        """Export what is left; give up after `STOP_LIMIT_S`."""
        await asyncio.to_thread(self._executor.shutdown)
        stopping = threading.Thread(target=self._provider.shutdown, daemon=True)  # waits up to 30 s for the exporter
        stopping.start()
        await asyncio.to_thread(stopping.join, STOP_LIMIT_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # ends its retries

    def _make_span(self, record: CallRecord, slot: Slot, zero: datetime) -> None:
        try:
            add_span(
                self._provider.get_tracer("moshi-bridge"), make_entry(record, slot, self._service, zero), self._hide
            )
        except Exception:  # the root of this thread's work
            log.exception("no span was made of a call")


class _Exporter(OTLPSpanExporter):
    """Counts spans that are not accepted; logs when the collector goes away and when it is back."""

    lost = 0
    _is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        self.lost += len(spans) * is_away
        if is_away and not self._is_away:
            log.warning("the collector at TRACES_ENDPOINT does not accept spans; they are lost until it does")
        if self._is_away and not is_away:
            log.info("the collector at TRACES_ENDPOINT accepts spans again")
        self._is_away = is_away
        return result


def add_span(tracer: Tracer, entry: CallEntry, hide: Hide) -> None:
    """Add the root span of a call that has ended; `hide` masks numbers and secrets in others' texts."""
    assert entry.ended_at
    assert entry.end_reason
    began_ns, attributes = _nanoseconds(entry.reserved_at), _attributes(entry, hide)
    span = tracer.start_span("call", Context(), SpanKind.SERVER, attributes, start_time=began_ns)
    for event in entry.events:
        span.add_event(event.kind, timestamp=_nanoseconds(entry.reserved_at + timedelta(seconds=event.at_s)))
    if EndReason(entry.end_reason) in ERRORS:
        span.set_status(StatusCode.ERROR, hide(entry.end_reason))
    else:
        span.set_status(StatusCode.OK)
    span.end(_nanoseconds(entry.ended_at))


def _attributes(entry: CallEntry, hide: Hide) -> dict[str, str | int | float]:
    values: dict[str, str | int | float | None] = {
        "sid": entry.call_sid,
        "direction": entry.direction,
        "from": hide(entry.caller_masked),
        "to": hide(entry.called_masked),
        "slot": entry.slot,
        "checkpoint": entry.checkpoint,
        "persona": entry.persona,
        "end.reason": entry.end_reason,
        "end.by": entry.ended_by,
        "end.detail": hide(entry.end_detail),
        **{name: getattr(entry, name) for name in ("first_sound_ms", *LATENCIES, *PROCESSING)},
        **{f"counts.{name}": count for name, count in entry.counters.items()},
    }
    return {f"call.{name}": value for name, value in values.items() if value not in (None, "")}


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1_000
