"""All metrics of the service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.router import CallRouter, RejectReason
from app.config import Settings
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.metrics.calls import call_families
from app.telemetry.metrics.families import Family, counter, gauge, histogram, info
from app.telemetry.metrics.workers import process_families, worker_families
from app.telemetry.recording.writer import RecordingWriter
from workers.supervisor import Supervisor

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces


@dataclass(frozen=True, slots=True)
class MetricSources:
    """Where the numbers are."""

    settings: Settings
    manager: CallManager
    supervisor: Supervisor
    call_router: CallRouter
    call_queue: CallQueue
    refusals: Callable[[], dict[str, float]]
    lag: EventLoopLag
    call_log: CallLogWriter | None
    recordings: RecordingWriter | None = None
    traces: "CallTraces | None" = None

    def families(self) -> Iterator[Family]:
        """Yield every metric, as of now."""
        built = {"version": _version(), "engine": self.settings.model.engine, "codec": self.settings.model.codec}
        yield info("build_info", "Version and settings of this service.", built)
        yield from call_families(self.manager)
        yield gauge("waiting_callers", "Callers in the queue for a slot.", len(self.call_queue))
        rejected = {reason.value: float(self.call_router.rejected[reason]) for reason in RejectReason}
        yield counter("calls_turned_down", "Calls that were rejected, by reason.", rejected, "reason")
        yield counter("refusals", "Requests that were refused, by reason.", self.refusals(), "reason")
        yield histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", self.lag.histogram)
        yield from worker_families(self.supervisor.workers)
        help_text = "Frames dropped because the encoder's queue was full."
        yield counter("encoder_queue_frames_dropped", help_text, self.supervisor.dropped)
        yield from process_families(self.supervisor.workers)
        if self.call_log:
            yield gauge("call_log_up", "1 if the call log's database takes records.", not self.call_log.is_away)
            help_text = "Call records that wait for the database, on disk or in memory."
            yield gauge("call_log_waiting_records", help_text, self.call_log.waiting)
            yield counter("call_log_lost_records", "Call records that are lost.", self.call_log.lost)
        if self.recordings:
            help_text = "Recordings that were broken off or could not be finished."
            yield counter("recording_faults", help_text, self.recordings.faults)
        if self.traces:
            yield counter("traces_lost", "Spans that the collector did not accept.", self.traces.lost)


def _version() -> str:
    try:
        return version("moshi-bridge")
    except PackageNotFoundError:  # in a container there are only the files
        return "unknown"
