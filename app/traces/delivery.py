"""Delivers spans to a collector, from a thread of its own: no call waits for it, nor for one that does not answer.

What a collector does not take waits, `SPANS_WAITING` of them, and is sent again with the next ones; beyond that the
oldest are lost. The log says once that a collector takes nothing, and once that it does again.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from app.call.record import CallRecord
from app.calllog.entry import Clock, Place, row_of
from app.traces.span import NAME, CallSpan, span_of
from workers.lines import Hide
from workers.messages import Slot

log = logging.getLogger(__name__)

RECORDS_WAITING = 256
"""Calls that may wait for the thread; more are lost."""
SPANS_WAITING = 256
BATCH = 64
ANSWER_WITHIN_S = 10.0
PAUSE_S = 15.0
"""After a failure."""
STOP_WITHIN_S = 3.0
_IDS = RandomIdGenerator()
_SCOPE = InstrumentationScope("moshi-bridge")

Handed = tuple[CallRecord, Slot, Clock]
Export = Callable[[Sequence[ReadableSpan]], SpanExportResult]


class CallTraces:
    """Takes the records of calls that have ended from the switchboard; `lost` counts those that no span was sent of."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], place: Place, hide: Hide) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would tell of each failure anew
        self._exporter = OTLPSpanExporter(endpoint, headers=dict(headers), timeout=ANSWER_WITHIN_S)
        self._resource = Resource({"service.name": "moshi-bridge", "service.instance.id": uuid.uuid4().hex})
        self._place, self._hide = place, hide
        self._inbox: queue.Queue[Handed | None] = queue.Queue(RECORDS_WAITING)
        self._waiting: deque[ReadableSpan] = deque()
        self._is_away = self._stopping = False
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def keep(self, record: CallRecord, slot: Slot) -> None:
        """Take the record of a call that has ended; never blocks."""
        if record.end is None:
            return
        try:
            self._inbox.put_nowait((record.copy(), slot, Clock(time.monotonic(), datetime.now(UTC))))
        except queue.Full:
            self.lost += 1

    async def stop(self) -> None:
        """Deliver what there is, if the collector takes it soon."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(queue.Full):  # then the thread has something to wake up for
            self._inbox.put_nowait(None)
        self._thread.join(STOP_WITHIN_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # breaks off what it still tries
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        try:
            while not (self._stopping and self._inbox.empty()):
                self._take(self._inbox.get())
                self._deliver()
        except Exception:  # the root of this thread: the calls go on
            log.exception("traces have stopped; no more calls are told of")

    def _take(self, handed: Handed | None) -> None:
        """Make spans of what has been handed over, the first and all that wait behind it."""
        while True:
            if handed:
                self._add(self._span(span_of(row_of(handed[0], handed[1], self._place, handed[2]), self._hide)))
            try:
                handed = self._inbox.get_nowait()
            except queue.Empty:
                return

    def _add(self, span: ReadableSpan) -> None:
        self._waiting.append(span)
        if len(self._waiting) > SPANS_WAITING:
            self._waiting.popleft()
            self.lost += 1

    def _deliver(self) -> None:
        while self._waiting:
            batch = list(self._waiting)[:BATCH]
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
            self._tell(taken)
            if not taken:
                self._pause()
                if self._stopping:
                    return
                continue
            for _ in batch:
                self._waiting.popleft()

    def _pause(self) -> None:
        """Wait before the next try; the end of the service cuts it short."""
        until_s = time.monotonic() + PAUSE_S
        while not self._stopping and (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._take(self._inbox.get(timeout=left_s))

    def _tell(self, taken: bool) -> None:
        if not taken and not self._is_away:
            log.warning("traces are not taken at TRACES_ENDPOINT; they wait, %d at most", SPANS_WAITING)
        if taken and self._is_away:
            log.info("traces are taken again")
        self._is_away = not taken

    def _span(self, span: CallSpan) -> ReadableSpan:
        flags = TraceFlags(TraceFlags.SAMPLED)
        context = SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False, trace_flags=flags)
        return ReadableSpan(
            NAME,
            context,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(name, timestamp=at_ns) for at_ns, name in span.events],
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, span.fault) if span.fault else Status(StatusCode.OK),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=_SCOPE,
        )
