"""The numbers of everything around the calls, and all numbers together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import psutil

from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.router import CallRouter, RejectReason
from app.config import Settings
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.metrics.calls import call_families
from app.telemetry.metrics.families import Family, counter, counters, gauge, histogram, info
from app.telemetry.metrics.workers import memory_and_cpu, worker_families
from app.telemetry.recording.writer import RecordingWriter
from workers.supervisor import Supervisor

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces

_PROCESS = psutil.Process()


@dataclass(frozen=True, slots=True)
class Sources:
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
        """Yield every number there is, each as of the moment at which it is asked for."""
        yield _build(self.settings)
        yield from call_families(self.manager)
        yield from self._at_the_door()
        yield histogram("loop_lag_seconds", "By how much the event loop came late to a timer.", self.lag.histogram)
        yield from worker_families(self.supervisor.workers)
        meaning = "Frames that found no room on the way to the encoder."
        yield counter("frames_unsent", meaning, self.supervisor.dropped)
        yield from memory_and_cpu(self.supervisor.workers, _memory_bytes(), _cpu_s())
        if self.call_log:
            yield from _call_log(self.call_log)
        if self.recordings:
            meaning = "Recordings that were broken off or could not be finished."
            yield counter("recording_faults", meaning, self.recordings.faults)
        if self.traces:
            meaning = "Calls of which no span was sent, because the collector did not take them."
            yield counter("traces_lost", meaning, self.traces.lost)

    def _at_the_door(self) -> Iterator[Family]:
        yield gauge("waiting_callers", "Callers who wait in line for a slot.", len(self.call_queue))
        rejected = {why.value: float(self.call_router.rejected[why]) for why in RejectReason}
        yield counters("calls_turned_down", "Calls that were not taken, by why.", "reason", rejected)
        meaning = "Requests that were refused, by why."
        yield counters("refusals", meaning, "reason", self.refusals())


def _build(settings: Settings) -> Family:
    try:
        ours = version("moshi-bridge")
    except PackageNotFoundError:  # in a container there are only the files
        ours = "unknown"
    return info("build_info", "What runs here.", {"version": ours, "engine": settings.engine, "codec": settings.codec})


def _call_log(call_log: CallLogWriter) -> Iterator[Family]:
    yield gauge("call_log_up", "1 if the call log's database takes records.", not call_log.is_away)
    meaning = "Records of calls that wait for the database, on disk or in memory."
    yield gauge("call_log_waiting_records", meaning, call_log.waiting)
    yield counter("call_log_lost_records", "Records of calls that are lost.", call_log.lost)


def _memory_bytes() -> int:
    return int(_PROCESS.memory_info().rss)


def _cpu_s() -> float:
    times = _PROCESS.cpu_times()
    return float(times.user + times.system)
