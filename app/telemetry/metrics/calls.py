"""Metrics of calls."""

from collections.abc import Iterator

from app.calls.manager import CallManager
from app.calls.record import EndReason
from app.calls.session import CallState
from app.calls.statistics import Histograms
from app.telemetry.metrics.families import Family, counter, gauge, histogram

ACTIVE = tuple(state for state in CallState if state is not CallState.ENDED)
ADJUSTED = ("left_out", "spliced", "repeated")
COUNTED = {
    "overruns": "Frames of which a stage took longer than the 80 ms in which the next one comes.",
    "underruns": "Gaps: audio that came after Twilio had played all it had.",
    "clears": "Times that Twilio's buffer was cleared because the caller heard everything far too late.",
    "packets_in": "Packets of 20 ms from callers.",
    "frames_out": "Frames of 80 ms that Moshi has spoken.",
    "clock_resets": "Jumps of a caller's clock after which it was taken to be set anew.",
    "dtmf": "Keys that callers have pressed.",
}
"""Counters of the call record, exported under the same names."""


def call_families(manager: CallManager) -> Iterator[Family]:
    """Yield how many calls there are and were, and what they have counted."""
    yield gauge("ready", "1 if a call could be accepted now.", manager.ready)
    yield gauge("draining", "1 if no more calls are accepted because the service is to stop.", manager.draining)
    yield gauge("slots", "Calls that can be active at once; 0 until the workers are ready.", manager.slots)
    yield gauge("free_slots", "Calls that could still be accepted.", manager.free_slots)
    by_state = {state.name.lower(): float(manager.states[state]) for state in ACTIVE}
    yield gauge("calls", "Active calls by state.", by_state, "state")
    ends, stream_ends = (
        {reason.name.lower(): float(counts[reason]) for reason in EndReason}
        for counts in (manager.ends, manager.stream_ends)
    )
    help_text = "Calls that have ended, by the reason of their first stream; one that comes back counts once."
    yield counter("calls_ended", help_text, ends, "reason")
    yield counter("streams_ended", "Media streams that have ended, by reason.", stream_ends, "reason")
    yield from _counted(manager)
    yield from histogram_families(manager.histograms)


def _counted(manager: CallManager) -> Iterator[Family]:
    counts = manager.counts
    for name, help_text in COUNTED.items():
        yield counter(name, help_text, counts[name])
    adjusted = {how: float(counts[f"packets_{how}"]) for how in ADJUSTED}
    yield counter("packets_adjusted", "Packets by which playout was made shorter or longer.", adjusted, "how")
    dropped = {"engine_behind": float(counts["frames_dropped"]), "buffer_cleared": float(counts["frames_cleared"])}
    yield counter("frames_dropped", "Frames that nobody has heard, by reason.", dropped, "reason")
    for name, help_text in (
        ("late", "Audio of callers that came too late for Moshi to hear."),
        ("filled", "Silence in place of audio that had not come from callers in time."),
    ):
        yield counter(f"caller_audio_{name}_seconds", help_text, counts[f"ms_{name}"] / 1000)


def histogram_families(of_calls: Histograms) -> Iterator[Family]:
    """Yield latencies and durations."""
    help_text = "Latency from what a caller says to what they hear of the answer, estimated by this service."
    yield histogram("mouth_to_ear_seconds", help_text, of_calls.delay)
    yield histogram("first_sound_seconds", "From the start of the stream to the first sound.", of_calls.first_sound)
    help_text = "Audio still to be played at Twilio when a frame is ready; at 0 the caller may hear a gap."
    yield histogram("playout_buffer_seconds", help_text, of_calls.lead)
    yield histogram("call_duration_seconds", "How long a stream held its slot.", of_calls.length)
    yield histogram("frame_seconds", "A frame's way through the workers, from the app and back.", of_calls.frame)
    yield histogram("stage_seconds", "What a stage takes for a frame.", of_calls.stages, "stage")
    help_text = "How long a frame waits for a stage, and at last for the app, the transfer included."
    yield histogram("wait_seconds", help_text, of_calls.waits, "stage")
