"""What happens now, as JSON for the page: one snapshot every 250 ms for all readers, none while nobody reads.

Each snapshot repeats the last seconds of what grows (words, times of steps), numbered, so that a reader may skip some.
One that missed more has a gap and asks for the whole call.
"""

import json
import math
import time
from collections.abc import Callable
from itertools import islice, takewhile
from statistics import median

import numpy as np

from app.calls.active_call import ActiveCall
from app.calls.manager import CallManager
from app.calls.record import CallRecord
from app.calls.session import CallState
from app.logging import mask_number
from app.telemetry.call_log.entry import OUTBOUND
from app.telemetry.event_loop_lag import EventLoopLag
from workers.messages import FRAME_S, Stage

SNAPSHOT_EVERY_S = 0.25
REPEAT_S = 4.0
HISTORY_S = 60.0
"""How far a reader's first snapshot goes back."""
WORDS_REPEATED, WORDS_AT_FIRST = 40, 300
"""About ten seconds and a minute of two people's words."""
LATENCY_OVER = 50
"""Frames whose median latency is shown: four seconds."""
LAG_OVER_S = 10.0
MAX_POINTS = 240
"""Of a call's latency over time."""
STATES = {
    CallState.RESERVED: "ringing",
    CallState.CONNECTED: "connecting",
    CallState.LIVE: "active",
    CallState.DRAINING: "ending",
    CallState.ENDED: "ended",
}

SUSPENDED = "resuming"


class LiveView:
    """The calls of one manager; `waiting` counts the callers in the queue, `model` is the checkpoint.

    `cluster` returns what this node knows of all; None for one machine alone.
    """

    def __init__(
        self,
        manager: CallManager,
        waiting: Callable[[], int],
        lag: EventLoopLag,
        model: str,
        clock: Callable[[], float] = time.monotonic,
        cluster: Callable[[], dict[str, object]] | None = None,
    ) -> None:
        self._manager, self._waiting, self._lag, self._model, self._now = manager, waiting, lag, model, clock
        self._cluster = cluster
        self._made: dict[float, tuple[float, str]] = {}
        """When the last snapshot was made that goes back so many seconds, and it."""

    def latest(self) -> str:
        """Return the snapshot of this quarter of a second."""
        return self._shared(REPEAT_S)

    def first(self) -> str:
        """Return a snapshot that goes back a minute, for a new reader."""
        return self._shared(HISTORY_S)

    def _shared(self, back_s: float) -> str:
        """Make it once for all readers, who may come back all at once: it delays the calls."""
        now, (made_s, text) = self._now(), self._made.get(back_s, (-math.inf, ""))
        if now - made_s >= SNAPSHOT_EVERY_S / 2:
            text = json.dumps(self.snapshot(now, back_s))
            self._made[back_s] = now, text
        return text

    def snapshot(self, now: float, back_s: float) -> dict[str, object]:
        """Return what happens now, with the last words, and the steps of the last `back_s` seconds."""
        manager, calls = self._manager, self._manager.calls
        return {
            "now_s": round(now, 3),
            "ready": manager.ready,
            "pipeline": manager.pipeline,
            "draining": manager.draining,
            "slots": manager.slots,
            "free_slots": manager.free_slots,
            "waiting": self._waiting(),
            "model": self._model,
            "frame_period_ms": FRAME_S * 1000,
            "processing_ms": _ms(manager.statistics.processing_s),
            "lag_ms": _ms(self._lag.worst_s(LAG_OVER_S)),
            "steps": _steps(calls, now - back_s),
            "calls": [_call(call, now, back_s > REPEAT_S) for call in calls],
            **({"cluster": self._cluster()} if self._cluster else {}),
        }


def call_detail(record: CallRecord, after: int = 0) -> dict[str, object]:
    """Return a call's words except the first `after`, and its latency over time; times from the reservation.

    Slow after hours of a call: pass a copy of the record, off the event loop.
    """
    return {
        **_parties(record),
        "end": record.end,
        "detail": record.detail,
        "started_s": _since_reserved(record, record.started_s),
        "ended_s": _since_reserved(record, record.ended_s),
        "counts": dict(record.counts),
        "transcript": _transcript(record, min(after, len(record.words))),
        "latencies_ms": _maxima_ms(list(record.latencies_s)),
    }


def latency_ms(record: CallRecord) -> float | None:
    """Return the median mouth-to-ear latency of the last seconds."""
    latencies_s = list(islice(reversed(record.latencies_s), LATENCY_OVER))
    return _ms(median(latencies_s)) if latencies_s else None


def _call(call: ActiveCall, now: float, is_first: bool) -> dict[str, object]:
    record, levels = call.session.record, call.levels
    return {
        **_parties(record),
        "slot": call.reservation.slot,
        "state": STATES[call.session.state] if call.session.suspended_since_s is None else SUSPENDED,
        "for_s": round(now - (record.started_s or record.reserved_s), 2),
        "caller_dbfs": round(levels.caller.level_dbfs(now), 1),
        "moshi_dbfs": round(levels.moshi.level_dbfs(now), 1),
        "latency_ms": latency_ms(record),
        "buffered_ms": _ms(call.session.leg.buffered_s(now)),
        "stages_ms": {span.stage: _ms(span.ended_s - span.started_s) for span in (record.spans or [()])[-1]},
        "overruns": record.counts["overruns"],
        "resumed": record.counts["resumed"],
        "dropped": record.counts["frames_dropped"],
        "sentences": {
            "queued": call.session.sentences.queued,
            "said": record.counts["sentences_said"],
            "cut": record.counts["sentences_cut"],
        },
        "transcript": _transcript(record, len(record.words) - (WORDS_AT_FIRST if is_first else WORDS_REPEATED)),
    }


def _parties(record: CallRecord) -> dict[str, object]:
    """Return the call's SID, the other party, masked, who called whom, and the persona."""
    outbound = record.direction.startswith(OUTBOUND)
    other = mask_number(record.called if outbound else record.caller)
    direction = "outbound" if outbound else "inbound"
    return {"call_sid": record.call_sid, "number": other, "direction": direction, "persona": record.persona}


def _transcript(record: CallRecord, first: int) -> dict[str, object]:
    """Return the words from number `first` on, in the order in which they became known."""
    first = max(0, first)
    return {"first": first, "words": [word.as_json() for word in record.words[first:]]}


def _steps(calls: list[ActiveCall], since_s: float) -> list[tuple[float, float]]:
    """Return the engine's steps since then, when (on `now_s`'s clock) and how long in ms, oldest first.

    A step is one for all calls: those of the call that has been active longest are all of them.
    """
    longest = next((call.session.record for call in calls if call.session.record.spans), None)
    spans = reversed(longest.spans) if longest else iter(())
    steps = (span for frame in spans for span in frame if span.stage is Stage.STEP)
    late = takewhile(lambda span: span.started_s >= since_s, steps)
    return [(round(span.started_s, 3), _ms(span.ended_s - span.started_s)) for span in late][::-1]


def _maxima_ms(latencies_s: list[float]) -> list[float]:
    """Return the maximum of each of `MAX_POINTS` stretches of equal length."""
    stretches = np.array_split(latencies_s, min(len(latencies_s), MAX_POINTS)) if latencies_s else []
    return [_ms(float(stretch.max())) for stretch in stretches]


def _since_reserved(record: CallRecord, moment_s: float | None) -> float | None:
    return None if moment_s is None else round(moment_s - record.reserved_s, 3)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
