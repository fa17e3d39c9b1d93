"""All metrics of the service: its calls, its workers as of their last answer to a ping, its processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.router import CallRouter, RejectReason
from app.calls.session import CallState
from app.calls.speech_backend import ServerVitals, SpeechBackend
from app.calls.statistics import Histograms
from app.calls.transcript import Side
from app.config import Settings
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.metrics.exposition import Family, counter, gauge, histogram, info
from app.telemetry.recording.writer import RecordingWriter
from app.telemetry.version import software_version
from app.telemetry.webhooks.sender import WebhookSender
from workers.supervisor import WorkerState

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces

COUNTED = {
    "overruns": "Frames of which a stage took longer than the 80 ms in which the next one comes.",
    "underruns": "Gaps: audio that came after Twilio had played all it had.",
    "clears": "Times that Twilio's buffer was cleared because the caller heard everything far too late.",
    "packets_in": "Packets of 20 ms from callers.",
    "frames_out": "Frames of 80 ms that Moshi has spoken.",
    "clock_resets": "Jumps of a caller's clock that count as a clock that was set anew.",
    "dtmf": "Keys that callers have pressed.",
    "moves": "Times that a call went on at another Moshi server, which remembers nothing of it.",
}
"""Counters of the call record, exported under the same names."""
_APP = psutil.Process()


@dataclass(frozen=True, slots=True)
class MetricSources:
    settings: Settings
    manager: CallManager
    supervisor: SpeechBackend
    servers: Callable[[], Sequence[ServerVitals]]
    call_router: CallRouter
    call_queue: CallQueue
    refusals: Callable[[], dict[str, float]]
    lag: EventLoopLag
    call_log: CallLogWriter | None
    recordings: RecordingWriter | None
    traces: "CallTraces | None"
    webhooks: WebhookSender | None

    def families(self) -> Iterator[Family]:
        built = {
            "version": software_version(),
            "engine": self.settings.model.engine,
            "codec": self.settings.model.codec,
        }
        yield info("build_info", "Version and settings of this service.", built)
        yield from call_families(self.manager)
        yield gauge("waiting_callers", "Callers in the queue for a slot.", len(self.call_queue))
        rejected = {reason.value: self.call_router.rejected[reason] for reason in RejectReason}
        yield counter("calls_turned_down", "Calls that were rejected, by reason.", rejected, "reason")
        yield counter("refusals", "Requests that were refused, by reason.", self.refusals(), "reason")
        yield histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", self.lag.histogram)
        yield from _worker_families(self.supervisor.workers)
        help_text = "Frames dropped because the encoder's queue was full."
        yield counter("encoder_queue_frames_dropped", help_text, self.supervisor.dropped)
        yield from server_families(self.servers())
        if transcription := self.supervisor.transcription:
            help_text = "Frames of callers whose words are missing because the transcriber was late or away."
            yield counter("transcriber_frames_missed", help_text, transcription.missed)
        yield from _process_families(self.supervisor.workers)
        if self.call_log:
            yield gauge("call_log_up", "1 if the call log's database accepts records.", not self.call_log.is_away)
            help_text = "Call records that wait for the database, on disk or in memory."
            yield gauge("call_log_waiting_records", help_text, self.call_log.waiting)
            yield counter("call_log_lost_records", "Call records that are lost.", self.call_log.lost)
        if self.recordings:
            help_text = "Recordings that were broken off or could not be finished."
            yield counter("recording_faults", help_text, self.recordings.faults)
        if self.traces:
            yield counter("traces_lost", "Spans that the collector did not accept.", self.traces.lost)
        if self.webhooks:
            yield counter("webhook_events_sent", "Events that WEBHOOK_URL has accepted.", self.webhooks.sent)
            yield counter("webhook_events_lost", "Events that were given up.", self.webhooks.lost)
            yield gauge("webhook_events_waiting", "Events that are still to be sent.", self.webhooks.waiting)


def call_families(manager: CallManager) -> Iterator[Family]:
    yield gauge("ready", "1 if a call could be accepted now.", manager.ready)
    yield gauge("draining", "1 if no more calls are accepted because the service is to stop.", manager.draining)
    yield gauge("slots", "Calls that can be active at once; 0 until the workers are ready.", manager.slots)
    yield gauge("free_slots", "Calls that could still be accepted.", manager.free_slots)
    by_state = {state.name.lower(): manager.states[state] for state in CallState if state is not CallState.ENDED}
    yield gauge("calls", "Active calls by state.", by_state, "state")
    ends, stream_ends = (
        {reason.name.lower(): counts[reason] for reason in EndReason}
        for counts in (manager.statistics.ends, manager.statistics.stream_ends)
    )
    help_text = "Calls that have ended, by the reason of their first stream; one that comes back counts once."
    yield counter("calls_ended", help_text, ends, "reason")
    yield counter("streams_ended", "Media streams that have ended, by reason.", stream_ends, "reason")
    help_text = "Active calls that wait for a pipeline to go on with them."
    yield gauge("calls_suspended", help_text, len(manager.suspended))
    yield from _counted(manager.counts)
    words = {speaker.value: manager.statistics.words[speaker] for speaker in Side}
    yield counter("words", "Words of the transcripts, by who said them.", words, "speaker")
    yield from _histogram_families(manager.statistics.histograms)


def _counted(counts: Mapping[str, int]) -> Iterator[Family]:
    for name, help_text in COUNTED.items():
        yield counter(name, help_text, counts[name])
    adjusted = {how: counts[f"packets_{how}"] for how in ("dropped", "shortened", "repeated")}
    yield counter("packets_adjusted", "Packets by which playout was made shorter or longer.", adjusted, "how")
    dropped = {"engine_behind": counts["frames_dropped"], "buffer_cleared": counts["frames_cleared"]}
    yield counter("frames_dropped", "Frames that nobody has heard, by reason.", dropped, "reason")
    help_text = "Audio of callers that came too late for Moshi to hear."
    yield counter("caller_audio_late_seconds", help_text, counts["ms_late"] / 1000)
    help_text = "Silence in place of audio that had not come from callers in time."
    yield counter("caller_audio_filled_seconds", help_text, counts["ms_filled"] / 1000)


def _histogram_families(of_calls: Histograms) -> Iterator[Family]:
    help_text = "Latency from what a caller says to what they hear of the answer, estimated by this service."
    yield histogram("mouth_to_ear_seconds", help_text, of_calls.mouth_to_ear)
    yield histogram("first_sound_seconds", "From the start of the stream to the first sound.", of_calls.first_sound)
    help_text = "Audio still to be played at Twilio when a frame is ready; at 0 the caller may hear a gap."
    yield histogram("playout_buffer_seconds", help_text, of_calls.buffered)
    help_text = "How long Moshi did not hear a caller whose call then went on in another pipeline or stream."
    yield histogram("resume_gap_seconds", help_text, of_calls.gap)
    yield counter("calls_resumed", "Times that a call went on after such a gap.", of_calls.gap.count)
    yield histogram("call_duration_seconds", "How long a stream held its slot.", of_calls.duration)
    yield histogram("frame_seconds", "A frame's way through the workers, from the app and back.", of_calls.frame)
    yield histogram("stage_seconds", "What a stage takes for a frame.", of_calls.stages, "stage")
    help_text = "How long a frame waits for a stage, and at last for the app, the transfer included."
    yield histogram("wait_seconds", help_text, of_calls.waits, "stage")


def _worker_families(workers: Iterable[WorkerState]) -> Iterator[Family]:
    """Yield how the workers are; one that has not answered since it was started has no vitals."""
    named, label = {str(worker.name): worker for worker in workers}, "worker"
    ready = {name: worker.ready for name, worker in named.items()}
    yield gauge("worker_up", "1 if a worker is ready and does not hang.", ready, label)
    losses = {name: worker.losses for name, worker in named.items()}
    yield counter("worker_losses", "Times that a worker ended or hung and was restarted.", losses, label)
    hangs = {name: worker.hangs for name, worker in named.items()}
    yield counter("worker_hangs", "Times that a worker hung; worker_losses counts them too.", hangs, label)
    vitals = {name: worker.vitals for name, worker in named.items() if worker.vitals}
    memory = {name: one.device_bytes for name, one in vitals.items()}
    yield gauge("worker_mlx_memory_bytes", "Memory of MLX's arrays, on a GPU if there is one.", memory, label)
    dropped = {name: one.dropped for name, one in vitals.items()}
    yield counter("worker_frames_dropped", "Frames dropped because the next worker's queue was full.", dropped, label)
    help_text = "Time for a batch: a step of the engine, or frames that are encoded or decoded together."
    yield histogram("worker_work_seconds", help_text, {name: one.work_s for name, one in vitals.items()}, label)
    yield histogram("worker_work_calls", "Calls in a batch.", {name: one.rows for name, one in vitals.items()}, label)


def server_families(servers: Sequence[ServerVitals]) -> Iterator[Family]:
    """Yield how the Moshi servers are, by the addresses in MOSHI_SERVERS; nothing without any."""
    if not servers:
        return
    label = "server"
    sessions = {one.name: one.sessions for one in servers}
    yield gauge("server_sessions", "Sessions that calls have at a Moshi server.", sessions, label)
    limits = {one.name: one.limit for one in servers}
    yield gauge("server_session_limit", "Sessions that a Moshi server may have, as MOSHI_SERVERS says.", limits, label)
    up = {one.name: one.up for one in servers}
    yield gauge("server_up", "1 if a Moshi server accepts sessions, 0 while it is set aside.", up, label)
    failures = {one.name: one.failures for one in servers}
    yield counter("server_failures", "Times that a Moshi server was set aside.", failures, label)


def _process_families(workers: Iterable[WorkerState]) -> Iterator[Family]:
    vitals = {str(worker.name): worker.vitals for worker in workers if worker.vitals}
    times = _APP.cpu_times()
    memory = {"app": _APP.memory_info().rss, **{name: one.memory_bytes for name, one in vitals.items()}}
    yield gauge("process_resident_memory_bytes", "Resident memory of a process.", memory, "process")
    cpu = {"app": times.user + times.system, **{name: one.cpu_s for name, one in vitals.items()}}
    yield counter("process_cpu_seconds", "Processor time of a process.", cpu, "process")
