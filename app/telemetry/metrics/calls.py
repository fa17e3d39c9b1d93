"""The numbers of the calls, by the names that Prometheus knows them by."""

from collections.abc import Iterator

from app.calls.manager import CallManager
from app.calls.record import EndReason
from app.calls.session import CallState
from app.calls.statistics import Histograms
from app.telemetry.metrics.families import Family, counter, counters, gauge, gauges, histogram, histograms

ON = tuple(state for state in CallState if state is not CallState.ENDED)
ADJUSTED = ("left_out", "spliced", "repeated")
COUNTED = {
    "overruns": "Frames of which a stage took longer than the 80 ms in which the next one comes.",
    "underruns": "Gaps that callers heard: audio that came after Twilio had played all it had.",
    "clears": "How often Twilio's buffer was emptied because the caller heard everything far too late.",
    "packets_in": "Packets of 20 ms that came from callers.",
    "frames_out": "Frames of 80 ms that Moshi has spoken.",
    "clock_resets": "How often a caller's clock jumped and was taken to be set anew.",
    "dtmf": "Keys that callers have pressed.",
}
"""What records count, under the same names."""


def call_families(manager: CallManager) -> Iterator[Family]:
    """Yield how many calls there are and were, and what they have counted."""
    states, ends = manager.states, manager.ends
    yield gauge("ready", "1 if a call could be taken now.", manager.ready)
    yield gauge("draining", "1 if no more calls are taken because the service is to stop.", manager.draining)
    yield gauge("slots", "How many calls can be on at once; 0 until the workers are ready.", manager.slots)
    yield gauge("free_slots", "How many more calls could be taken.", manager.free_slots)
    by_state = {state.name.lower(): float(states[state]) for state in ON}
    yield gauges("calls", "Calls that are on, by how far they have come.", "state", by_state)
    by_reason = {reason.name.lower(): float(ends[reason]) for reason in EndReason}
    meaning = "Calls that have ended, by why their first stream did; one that comes back counts once."
    yield counters("calls_ended", meaning, "reason", by_reason)
    by_reason = {reason.name.lower(): float(manager.stream_ends[reason]) for reason in EndReason}
    yield counters("streams_ended", "Media streams of calls that have ended, by why.", "reason", by_reason)
    yield from _counted(manager)
    yield from histogram_families(manager.histograms)


def _counted(manager: CallManager) -> Iterator[Family]:
    counts = manager.counts
    for name, meaning in COUNTED.items():
        yield counter(name, meaning, counts[name])
    adjusted = {how: float(counts[f"packets_{how}"]) for how in ADJUSTED}
    yield counters("packets_adjusted", "Packets by which the play-out was made shorter or longer.", "how", adjusted)
    dropped = {
        "engine_behind": float(counts["frames_dropped"]),
        "buffer_cleared": float(counts["frames_cleared"]),
    }
    yield counters("frames_dropped", "Frames that nobody has heard, by why they were dropped.", "reason", dropped)
    ms = {name: counts[f"ms_{name}"] / 1000 for name in ("late", "filled")}
    meaning = "What callers said that came too late to be heard by Moshi."
    yield counter("caller_audio_late_seconds", meaning, ms["late"])
    meaning = "Silence that was put in for what had not come from callers in time."
    yield counter("caller_audio_filled_seconds", meaning, ms["filled"])


def histogram_families(of_calls: Histograms) -> Iterator[Family]:
    """Yield what took how long."""
    meaning = "From what a caller says to what he hears of Moshi's answer, as far as can be told from here."
    yield histogram("mouth_to_ear_seconds", meaning, of_calls.delay)
    yield histogram("first_sound_seconds", "From the start of the stream to the first sound.", of_calls.first_sound)
    meaning = "What a frame of Moshi's finds unplayed when it is ready; at 0 the caller may hear a gap."
    yield histogram("lead_seconds", meaning, of_calls.lead)
    yield histogram("call_duration_seconds", "How long each stream of a call held its slot.", of_calls.length)
    yield histogram("frame_seconds", "A frame's way through the workers, from the app and back.", of_calls.frame)
    yield histograms("stage_seconds", "What a stage takes for a frame.", "stage", of_calls.stages)
    meaning = "How long a frame waits for a stage, and at last for the app, on its way there included."
    yield histograms("wait_seconds", meaning, "stage", of_calls.waits)
